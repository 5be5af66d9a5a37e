/**
 * The Player page: shows a live stream, or a file of the server.
 *
 * Address parameters: `?streamName=cam1` (or `vod://film.mp4`), `?autoplay=true` (plays at once), `?resolution=640x360` (asks for
 * that size), and those of demo.js.
 */
(function () {
  "use strict";

  const { STREAM_STATUS, STREAM_EVENT } = Stillcast.constants;

  const element = (id) => document.getElementById(id);
  const setStatus = (...words) => Demo.show("", ...words);
  const connection = new Demo.Connection(element("url"), setStatus);
  const panel = new SnapshotPanel(connection);
  const controls = new PlayControls();
  const FIELDS = ["url", "streamName", "width", "height", "bitrate"];
  /** What is played, from Play until its end, or null. */
  let playing = null;

  async function play() {
    const name = element("streamName").value.trim();
    if (!name) {
      setStatus(STREAM_STATUS.FAILED, "Name a stream or a file first.");
      element("streamName").focus();
      return;
    }
    setButton("Play", true);
    let session;
    try {
      session = await connection.connect();
    } catch {
      setButton("Play", false);
      return;
    }
    const wish = (id) => Math.max(0, Math.floor(Number(element(id).value)) || 0);
    const video = { width: wish("width"), height: wish("height"), bitrate: wish("bitrate") };
    playing = session.createStream({ name, display: element("remoteVideo"), constraints: { audio: true, video } });
    playing
      .on(STREAM_STATUS.PENDING, () => setStatus(STREAM_STATUS.PENDING, "Connecting to the stream…"))
      .on(STREAM_STATUS.PLAYING, (stream) => {
        setStatus(STREAM_STATUS.PLAYING);
        controls.begin(stream);
        element("snapshotBtn").disabled = false;
      })
      .on(STREAM_STATUS.STOPPED, (stream) => ended(STREAM_STATUS.STOPPED, Demo.explainStop(stream)))
      .on(STREAM_STATUS.FAILED, (stream) => ended(STREAM_STATUS.FAILED, Demo.explainPlaying(stream)))
      .on(STREAM_EVENT, (event) => {
        controls.hear(event);
        panel.hear(event);
      })
      .play();
    // From here on the button stops, also while the stream is still to come.
    if (playing) setButton("Stop", false);
  }

  function ended(...words) {
    playing = null;
    controls.end();
    panel.lost("The stream ended before there was a picture.");
    element("snapshotBtn").disabled = true;
    setStatus(...words);
    setButton("Play", false);
  }

  function stop() {
    setButton("Stop", true);
    playing.stop();
  }

  /** `busy`: the button waits for the server. The fields are locked from Play until the end. */
  function setButton(text, busy) {
    Demo.setButton(element("playBtn"), text, busy, FIELDS.map(element));
  }

  async function takeSnapshot() {
    element("snapshotSection").hidden = false;
    element("snapshotBtn").disabled = true;
    await panel.take(() => playing);
    element("snapshotBtn").disabled = !(playing && playing.status() === STREAM_STATUS.PLAYING);
  }

  async function prepare() {
    Stillcast.init();
    element("streamName").value = Demo.parameters.get("streamName") || "";
    const [width, height] = (Demo.parameters.get("resolution") || "").split("x");
    element("width").value = Number(width) || "";
    element("height").value = Number(height) || "";
    element("wishes").open = Boolean(Number(width) || Number(height));
    element("playForm").addEventListener("submit", (event) => {
      event.preventDefault();
      if (element("playBtn").disabled) return;
      if (playing) stop();
      else play();
    });
    element("snapshotBtn").addEventListener("click", takeSnapshot);
    await Demo.fillAddress(element("url"));
    if (Demo.parameters.get("autoplay") === "true" && !playing && !element("playBtn").disabled) play();
  }

  prepare();
})();
