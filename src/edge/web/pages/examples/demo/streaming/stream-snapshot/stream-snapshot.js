/**
 * The Stream Snapshot page: publishes the camera through stillcast.js and shows snapshots of this or any other live stream.
 *
 * Address parameters: `?name=cam1` (to publish as), `?stream=test` (to snapshot), and those of demo.js.
 */
(function () {
  "use strict";

  const { STREAM_STATUS, STREAM_EVENT } = Stillcast.constants;
  const CAMERA = { audio: true, video: { width: { ideal: 1280 }, height: { ideal: 720 } } };

  const element = (id) => document.getElementById(id);
  const setStatus = (...words) => Demo.show("", ...words);
  const connection = new Demo.Connection(element("url"), setStatus);
  const panel = new SnapshotPanel(connection);
  /** Our publication from Start until its end, or null. */
  let publication = null;

  // ---- publishing --------------------------------------------------------------------------------------------------------

  async function start() {
    const name = element("streamName").value.trim();
    if (!name) {
      setStatus(STREAM_STATUS.FAILED, "Give the stream a name first.");
      element("streamName").focus();
      return;
    }
    setButton("Start", true);
    let session;
    try {
      session = await connection.connect();
    } catch {
      setButton("Start", false);
      return;
    }
    publication = session.createStream({ name, display: element("localVideo"), constraints: CAMERA });
    publication
      .on(STREAM_STATUS.PENDING, () => setStatus(STREAM_STATUS.PENDING, "Opening the camera and connecting…"))
      .on(STREAM_STATUS.PUBLISHING, () => {
        setStatus(STREAM_STATUS.PUBLISHING);
        element("liveSince").textContent = new Date().toLocaleTimeString([], { hour12: false });
        element("localFacts").hidden = false;
      })
      .on(STREAM_STATUS.UNPUBLISHED, () => ended(STREAM_STATUS.UNPUBLISHED))
      .on(STREAM_STATUS.FAILED, (stream) => ended(STREAM_STATUS.FAILED, ...Demo.explainPublication(stream)))
      .publish();
    // From here on the button stops, also while the camera question is still open.
    if (publication) setButton("Stop", false);

    function ended(...words) {
      publication = null;
      element("localFacts").hidden = true;
      setStatus(...words);
      setButton("Start", false);
    }
  }

  function stop() {
    setButton("Stop", true);
    publication.stop();
  }

  /** `busy`: the button waits for the server. The fields are locked from Start until the end. */
  function setButton(text, busy) {
    Demo.setButton(element("publishBtn"), text, busy, [element("url"), element("streamName")]);
  }

  // ---- snapshot ----------------------------------------------------------------------------------------------------------

  async function takeSnapshot() {
    const name = element("snapshotName").value.trim();
    if (!name) {
      panel.fail("Name the stream to snapshot first.");
      element("snapshotName").focus();
      return;
    }
    element("snapshotBtn").disabled = true;
    await panel.take(async () => {
      const session = await connection.connect();
      return session.createStream({ name })
        .on(STREAM_EVENT, (event) => panel.hear(event))
        .on(STREAM_STATUS.FAILED, (stream) => panel.lost(stream.getInfo()));
    });
    element("snapshotBtn").disabled = false;
  }

  // ---- page --------------------------------------------------------------------------------------------------------------

  function showLocalSize() {
    const video = element("localVideo").querySelector("video");
    if (video && video.videoWidth) element("localSize").textContent = `${video.videoWidth} × ${video.videoHeight}`;
  }

  Stillcast.init();
  element("streamName").value = Demo.parameters.get("name") || Demo.randomName();
  element("snapshotName").value = Demo.parameters.get("stream") || "";
  Demo.follow(element("snapshotName"), element("streamName"));
  element("publishForm").addEventListener("submit", (event) => {
    event.preventDefault();
    if (element("publishBtn").disabled) return;
    if (publication) stop();
    else start();
  });
  element("snapshotForm").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!element("snapshotBtn").disabled) takeSnapshot();
  });
  element("localVideo").addEventListener("resize", showLocalSize, true);
  element("localVideo").addEventListener("loadedmetadata", showLocalSize, true);
  Demo.fillAddress(element("url"));
})();
