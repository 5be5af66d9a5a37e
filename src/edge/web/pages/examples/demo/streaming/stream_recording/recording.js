/**
 * The Stream Recording page: publishes the camera, has it recorded, and shows the file.
 *
 * Address parameters: `?name=cam1` (to publish as), and those of demo.js.
 */
(function () {
  "use strict";

  const { STREAM_STATUS } = Stillcast.constants;
  const CAMERA = { audio: true, video: { width: { ideal: 1280 }, height: { ideal: 720 } } };
  /** Shown from Stop until the server has finished the file. */
  const PROCESSING = "PROCESSING";

  const element = (id) => document.getElementById(id);
  const setStatus = (...words) => Demo.show("", ...words);
  const connection = new Demo.Connection(element("url"), setStatus);
  /** Our publication from Record until its end, or null. */
  let publication = null;
  let startedAt = 0;

  async function start() {
    const name = element("streamName").value.trim();
    if (!name) {
      setStatus(STREAM_STATUS.FAILED, "Give the stream a name first.");
      element("streamName").focus();
      return;
    }
    setButton("Record", true);
    hideFile();
    let session;
    try {
      session = await connection.connect();
    } catch {
      setButton("Record", false);
      return;
    }
    publication = session.createStream({ name, display: element("localVideo"), constraints: CAMERA, record: true });
    publication
      .on(STREAM_STATUS.PENDING, () => setStatus(STREAM_STATUS.PENDING, "Opening the camera and connecting…"))
      .on(STREAM_STATUS.PUBLISHING, (stream) => {
        // A server may be set not to record, and says so by saying nothing of a file.
        setStatus(STREAM_STATUS.PUBLISHING, stream.getRecordInfo() ? "" : "The camera is live, but the server does not record it.");
        startedAt = performance.now();
        element("recordFacts").hidden = false;
        showLength();
      })
      .on(STREAM_STATUS.UNPUBLISHED, (stream) => ended(stream, STREAM_STATUS.UNPUBLISHED, reasonOf(stream)))
      .on(STREAM_STATUS.FAILED, (stream) => ended(stream, STREAM_STATUS.FAILED, ...Demo.explainPublication(stream)))
      .publish();
    // From here on the button stops, also while the camera question is still open.
    if (publication) setButton("Stop", false);
  }

  function ended(stream, ...words) {
    publication = null;
    element("recordFacts").hidden = true;
    setStatus(...words);
    setButton("Record", false);
    const name = stream.getRecordInfo();
    // Without a reason the connection is lost: the server keeps what it has, and there is nobody to ask for it now.
    if (name && words[0] === STREAM_STATUS.FAILED && !stream.getInfo()) note(`What was recorded until then is kept as “${name}”.`);
    else if (name) showFile(name);
  }

  /** What the server says of the end, where it is more than that we wanted it. */
  function reasonOf(stream) {
    return /stopped by user/i.test(stream.getInfo()) ? "" : stream.getInfo();
  }

  function stop() {
    if (publication.status() === STREAM_STATUS.PUBLISHING) setStatus(PROCESSING, "The server finishes the file…");
    setButton("Stop", true);
    publication.stop();
  }

  function setButton(text, busy) {
    Demo.setButton(element("publishBtn"), text, busy, [element("url"), element("streamName")]);
  }

  // ---- file --------------------------------------------------------------------------------------------------------------

  function hideFile() {
    const video = element("recVideo");
    video.removeAttribute("src");
    video.load();
    video.hidden = true;
    delete element("fileScreen").dataset.filled;
    element("downloadDiv").hidden = true;
    element("fileNote").hidden = true;
  }

  async function showFile(name) {
    element("fileName").textContent = name;
    if (!connection.isOwnServer()) {
      note(`The other server keeps the file as “${name}”.`);
      return;
    }
    const address = `/client/records/${encodeURIComponent(name)}`;
    for (const id of ["fileLength", "fileBytes", "fileSize"]) element(id).textContent = "…";
    element("link").href = address;
    element("link").download = name;
    element("recVideo").hidden = false;
    element("recVideo").src = address;
    element("fileScreen").dataset.filled = "true";
    element("downloadDiv").hidden = false;
    try {
      const head = await fetch(address, { method: "HEAD", cache: "no-store" });
      if (!head.ok) throw new Error(head.status === 404 ? "The server has no such file." : `The server answers ${head.status}.`);
      element("fileBytes").textContent = Format.bytes(Number(head.headers.get("Content-Length")));
    } catch (error) {
      note(error instanceof TypeError ? "No answer from the server." : error.message);
    }
  }

  function note(text) {
    element("fileNote").textContent = text;
    element("fileNote").hidden = false;
  }

  // ---- page --------------------------------------------------------------------------------------------------------------

  function showLocalSize() {
    const video = element("localVideo").querySelector("video");
    if (video && video.videoWidth) element("localSize").textContent = `${video.videoWidth} × ${video.videoHeight}`;
  }

  function showLength() {
    if (publication) element("recorded").textContent = Format.clock((performance.now() - startedAt) / 1000);
  }

  Stillcast.init();
  element("streamName").value = Demo.parameters.get("name") || Demo.randomName();
  element("publishForm").addEventListener("submit", (event) => {
    event.preventDefault();
    if (element("publishBtn").disabled) return;
    if (publication) stop();
    else start();
  });
  element("localVideo").addEventListener("resize", showLocalSize, true);
  element("localVideo").addEventListener("loadedmetadata", showLocalSize, true);
  const video = element("recVideo");
  const showFacts = () => {
    element("fileLength").textContent = Number.isFinite(video.duration) ? `${Format.clock(video.duration)} (${video.duration.toFixed(1)} s)` : "unknown";
    element("fileSize").textContent = video.videoWidth ? `${video.videoWidth} × ${video.videoHeight}` : "none";
  };
  video.addEventListener("loadedmetadata", showFacts);
  video.addEventListener("durationchange", showFacts);
  video.addEventListener("error", () => { if (video.hasAttribute("src")) note("This browser cannot play the file; it can be downloaded."); });
  setInterval(showLength, 500);
  Demo.fillAddress(element("url"));
})();
