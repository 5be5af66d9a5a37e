/**
 * The Two-way Streaming page: publishes the camera on one side and plays a stream on the other, over one connection.
 *
 * Address parameters: `?name=cam1` (to publish as), `?streamName=test` (to play), and those of demo.js.
 */
(function () {
  "use strict";

  const { SESSION_STATUS, STREAM_STATUS, STREAM_EVENT, STREAM_EVENT_TYPE } = Stillcast.constants;
  const CAMERA = { audio: true, video: { width: { ideal: 1280 }, height: { ideal: 720 } } };
  /** Lines of the list of events. */
  const EVENTS_MAX = 200;
  const STATS_INTERVAL_MS = 1000;
  /** A stream that ends without a reason ended with its connection. */
  const LOST = "The connection was lost.";

  const element = (id) => document.getElementById(id);
  const setPublishStatus = (...words) => Demo.show("publish", ...words);
  const setPlayStatus = (...words) => Demo.show("play", ...words);
  /** Who waits for the connection is told of it; that it was lost is told by the streams that end with it. */
  const waiting = new Set();
  const connection = new Demo.Connection(element("url"), (...words) => waiting.forEach((tell) => tell(...words)));
  const panel = new SnapshotPanel(connection);
  const controls = new PlayControls();
  /** Each from its button until its end, or null. */
  let publication = null;
  let playing = null;
  let sentBefore = null;

  /** An established session, or null after its failure has been told by `tell`. */
  async function connect(tell) {
    waiting.add(tell);
    try {
      return await connection.connect();
    } catch {
      return null;
    } finally {
      waiting.delete(tell);
    }
  }

  // ---- publishing --------------------------------------------------------------------------------------------------------

  async function publish() {
    const name = element("publishStream").value.trim();
    if (!name) {
      setPublishStatus(STREAM_STATUS.FAILED, "Give the stream a name first.");
      element("publishStream").focus();
      return;
    }
    setPublishButton("Publish", true);
    const session = await connect(setPublishStatus);
    if (!session) {
      setPublishButton("Publish", false);
      return;
    }
    publication = session.createStream({ name, display: element("localVideo"), constraints: CAMERA });
    publication
      .on(STREAM_STATUS.PENDING, () => setPublishStatus(STREAM_STATUS.PENDING, "Opening the camera and connecting…"))
      .on(STREAM_STATUS.PUBLISHING, () => {
        setPublishStatus(STREAM_STATUS.PUBLISHING);
        for (const id of ["microphoneBtn", "cameraBtn", "sendDataBtn"]) element(id).disabled = false;
        showOwnMutes();
      })
      .on(STREAM_STATUS.UNPUBLISHED, () => publicationEnded(STREAM_STATUS.UNPUBLISHED))
      .on(STREAM_STATUS.FAILED, (stream) => publicationEnded(STREAM_STATUS.FAILED, ...(stream.getInfo() ? Demo.explainPublication(stream) : [LOST])))
      .publish();
    // From here on the button stops, also while the camera question is still open.
    if (publication) setPublishButton("Stop", false);
  }

  function publicationEnded(...words) {
    publication = null;
    sentBefore = null;
    for (const id of ["microphoneBtn", "cameraBtn", "sendDataBtn"]) element(id).disabled = true;
    for (const id of ["microphoneBtn", "cameraBtn"]) element(id).setAttribute("aria-pressed", "false");
    element("publishFacts").hidden = true;
    setPublishStatus(...words);
    setPublishButton("Publish", false);
  }

  function setPublishButton(text, busy) {
    Demo.setButton(element("publishBtn"), text, busy, [element("publishStream")]);
    lockAddress();
  }

  function showOwnMutes() {
    element("microphoneBtn").setAttribute("aria-pressed", String(publication.isAudioMuted()));
    element("cameraBtn").setAttribute("aria-pressed", String(publication.isVideoMuted()));
  }

  function toggleMicrophone() {
    if (publication.isAudioMuted()) publication.unmuteAudio();
    else publication.muteAudio();
    showOwnMutes();
  }

  function toggleCamera() {
    if (publication.isVideoMuted()) publication.unmuteVideo();
    else publication.muteVideo();
    showOwnMutes();
  }

  function sendData() {
    const text = element("streamData").value;
    let payload;
    try {
      payload = JSON.parse(text);
    } catch {
      payload = { text };
    }
    // The protocol carries objects.
    if (payload === null || typeof payload !== "object" || Array.isArray(payload)) payload = { value: payload };
    publication.sendData(payload);
  }

  async function readSentStats() {
    const stream = publication;
    if (!stream || stream.status() !== STREAM_STATUS.PUBLISHING) return;
    const { outboundStream: { audio, video } } = await statsOf(stream);
    if (publication !== stream || (!audio && !video)) return;
    const { width, height } = stream.videoResolution();
    element("localSize").textContent = width ? `${width} × ${height}` : "none";
    element("sentSize").textContent = video && video.frameWidth ? `${video.frameWidth} × ${video.frameHeight}` : "waiting…";
    element("sentCodecs").textContent = [video, audio].filter(Boolean).map(({ codec }) => Format.codec(codec)).filter(Boolean).join(", ");
    const now = { bytes: [audio, video].reduce((sum, part) => sum + ((part && part.bytesSent) || 0), 0), at: (video || audio).timestamp };
    const elapsed = sentBefore ? now.at - sentBefore.at : 0;
    if (elapsed > 0) element("sentRate").textContent = Format.bitrate(((now.bytes - sentBefore.bytes) * 8000) / elapsed);
    else if (!sentBefore) element("sentRate").textContent = "measuring…";
    sentBefore = now;
    element("publishFacts").hidden = false;
  }

  // ---- playing -----------------------------------------------------------------------------------------------------------

  function nameToPlay(fail) {
    const name = element("playStream").value.trim();
    if (!name) {
      fail("Name a stream first.");
      element("playStream").focus();
    }
    return name;
  }

  async function play() {
    const name = nameToPlay((text) => setPlayStatus(STREAM_STATUS.FAILED, text));
    if (!name) return;
    setPlayButton("Play", true);
    const session = await connect(setPlayStatus);
    if (!session) {
      setPlayButton("Play", false);
      return;
    }
    playing = session.createStream({ name, display: element("remoteVideo") });
    playing
      .on(STREAM_STATUS.PENDING, () => setPlayStatus(STREAM_STATUS.PENDING, "Connecting to the stream…"))
      .on(STREAM_STATUS.PLAYING, (stream) => {
        setPlayStatus(STREAM_STATUS.PLAYING);
        controls.begin(stream);
        element("snapshotBtn").disabled = false;
      })
      .on(STREAM_STATUS.STOPPED, (stream) => playingEnded(STREAM_STATUS.STOPPED, Demo.explainStop(stream)))
      .on(STREAM_STATUS.FAILED, (stream) => playingEnded(STREAM_STATUS.FAILED, stream.getInfo() ? Demo.explainPlaying(stream) : LOST))
      .on(STREAM_EVENT, (event) => {
        controls.hear(event);
        panel.hear(event);
        logEvent(event);
      })
      .play();
    if (playing) setPlayButton("Stop", false);
  }

  function playingEnded(...words) {
    playing = null;
    controls.end();
    panel.lost("The stream ended before there was a picture.");
    element("snapshotBtn").disabled = true;
    setPlayStatus(...words);
    setPlayButton("Play", false);
  }

  function setPlayButton(text, busy) {
    Demo.setButton(element("playBtn"), text, busy, [element("playStream")]);
    lockAddress();
  }

  async function ask() {
    const tell = (...words) => Demo.show("available", ...words);
    const name = nameToPlay((text) => tell(STREAM_STATUS.FAILED, text));
    if (!name) return;
    element("availableBtn").disabled = true;
    tell("PENDING", "Asking…");
    const session = await connect(tell);
    if (session) {
      await new Promise((resolve) => {
        const answer = (...words) => {
          tell(...words);
          resolve();
        };
        session.on(SESSION_STATUS.WARN, (message) => answer(STREAM_STATUS.FAILED, message.info));
        session.createStream({ name })
          .on(STREAM_STATUS.AVAILABLE, () => answer(STREAM_STATUS.AVAILABLE, `“${name}” can be played.`))
          .on(STREAM_STATUS.UNAVAILABLE, () => answer(STREAM_STATUS.UNAVAILABLE, `Nobody publishes “${name}” on this server.`))
          .on(STREAM_STATUS.FAILED, () => answer(STREAM_STATUS.FAILED, LOST))
          .available();
      });
    }
    element("availableBtn").disabled = false;
  }

  function logEvent(event) {
    const text = describe(event);
    if (!text) return;
    const list = element("receivedData");
    const line = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = new Date().toLocaleTimeString([], { hour12: false });
    line.append(time, " ", text);
    list.append(line);
    if (list.childElementCount > EVENTS_MAX) list.firstElementChild.remove();
    list.scrollTop = list.scrollHeight;
  }

  function describe({ type, payload }) {
    switch (type) {
      case STREAM_EVENT_TYPE.DATA: return `Data: ${JSON.stringify(payload)}`;
      case STREAM_EVENT_TYPE.AUDIO_MUTED: return "Microphone off";
      case STREAM_EVENT_TYPE.AUDIO_UNMUTED: return "Microphone on";
      case STREAM_EVENT_TYPE.VIDEO_MUTED: return "Camera off";
      case STREAM_EVENT_TYPE.VIDEO_UNMUTED: return "Camera on";
      case STREAM_EVENT_TYPE.RESIZE: return `Size: ${payload.streamerVideoWidth} × ${payload.streamerVideoHeight}`;
      case STREAM_EVENT_TYPE.NOT_ENOUGH_BANDWIDTH: return `The connection is too slow: ${payload.info} bit/s`;
      default: return "";
    }
  }

  async function takeSnapshot() {
    element("snapshotSection").hidden = false;
    element("snapshotBtn").disabled = true;
    await panel.take(() => playing);
    element("snapshotBtn").disabled = !(playing && playing.status() === STREAM_STATUS.PLAYING);
  }

  // ---- page --------------------------------------------------------------------------------------------------------------

  /** The address can be changed while nothing runs over it. */
  function lockAddress() {
    element("url").disabled = [element("publishStream"), element("playStream")].some((field) => field.disabled);
  }

  function onSubmit(form, button, isRunning, start, stop) {
    element(form).addEventListener("submit", (event) => {
      event.preventDefault();
      if (element(button).disabled) return;
      if (isRunning()) stop();
      else start();
    });
  }

  Stillcast.init();
  element("publishStream").value = Demo.parameters.get("name") || Demo.randomName();
  element("playStream").value = Demo.parameters.get("streamName") || "";
  Demo.follow(element("playStream"), element("publishStream"));
  onSubmit("publishForm", "publishBtn", () => publication, publish, () => {
    setPublishButton("Stop", true);
    publication.stop();
  });
  onSubmit("playForm", "playBtn", () => playing, play, () => {
    setPlayButton("Stop", true);
    playing.stop();
  });
  onSubmit("dataForm", "sendDataBtn", () => false, sendData);
  element("microphoneBtn").addEventListener("click", toggleMicrophone);
  element("cameraBtn").addEventListener("click", toggleCamera);
  element("availableBtn").addEventListener("click", ask);
  element("snapshotBtn").addEventListener("click", takeSnapshot);
  setInterval(readSentStats, STATS_INTERVAL_MS);
  Demo.fillAddress(element("url"));
})();
