/**
 * The Stream Snapshot page: publishes the camera through stillcast.js and shows snapshots of this or any other live stream.
 *
 * Address parameters: `?ws=8080`, `?wss=8443` (ports of the server), `?name=cam1` (to publish as), `?stream=test` (to snapshot).
 */
(function () {
  "use strict";

  const { SESSION_STATUS, STREAM_STATUS, STREAM_EVENT, STREAM_EVENT_TYPE, STREAM_STATUS_INFO, ERROR_INFO } = Stillcast.constants;
  const secure = location.protocol === "https:";
  const DEFAULT_PORTS = { ws: 8080, wss: 8443, http: 8081, https: 8444 };
  const CAMERA = { audio: true, video: { width: { ideal: 1280 }, height: { ideal: 720 } } };
  /** The server gives up after 3 s by default; whoever says nothing for this long is not going to. */
  const SNAPSHOT_PATIENCE_MS = 15000;
  /** A picture younger or older than this at arrival means that the two clocks disagree. */
  const CLOCK_TRUST_MS = 60000;

  const element = (id) => document.getElementById(id);
  const parameters = new URLSearchParams(location.search);
  const ports = { ...DEFAULT_PORTS };

  /** The one connection, or null. @type {Stillcast.Session|null} */
  let session = null;
  /** Settles when `session` is established or has ended; shared by all who wait for it. */
  let established = null;
  /** Our publication from Start until its end, or null. */
  let publication = null;
  /** What is known of the picture shown, or null. */
  let picture = null;

  // ---- words -------------------------------------------------------------------------------------------------------------

  /** Shows a status word, with a text that says what it means for the reader where that is not plain. */
  function setStatus(word, text = "", link = null) {
    const tones = { PUBLISHING: "good", ESTABLISHED: "good", FAILED: "bad", DISCONNECTED: "bad", PENDING: "busy" };
    show("status", "info", word, tones[word], text);
    element("hint").hidden = !link;
    if (link) Object.assign(element("hint"), { href: link, textContent: link });
  }

  function setSnapshotStatus(word, text = "") {
    const tones = { SNAPSHOT_COMPLETE: "good", FAILED: "bad", "processing…": "busy" };
    show("snapshotStatus", "snapshotInfo", word, tones[word], text);
  }

  function show(wordId, textId, word, tone, text) {
    element(wordId).textContent = word;
    element(wordId).dataset.tone = tone || "idle";
    element(textId).textContent = text;
  }

  /** Why publishing failed: the text, and an address that helps where there is one. */
  function explainStream(stream) {
    const info = stream.getInfo();
    const detail = stream.getErrorInfo();
    if (info === STREAM_STATUS_INFO.STREAM_NAME_ALREADY_IN_USE) {
      return [`Somebody already publishes “${stream.name()}” here. Choose another name.`];
    }
    if (info === ERROR_INFO.LOCAL_ERROR) {
      if (detail.startsWith("NotAllowedError")) return ["The browser may not use the camera. Allow it for this page, then press Start again."];
      if (detail.startsWith("NotFoundError")) return ["No camera or microphone was found."];
      if (detail.startsWith("NotReadableError")) return ["The camera is in use by another program."];
      if (detail.startsWith("SecurityError")) {
        return ["Browsers open the camera only on https pages. Use this address:", `https://${location.hostname}:${ports.https}${location.pathname}`];
      }
      return [`This browser could not publish. ${detail}`];
    }
    if (info.startsWith("Failed by ICE")) return [`${info}: the media connection was not made or was lost. A firewall may block UDP.`];
    if (info === STREAM_STATUS_INFO.NO_COMMON_CODECS) return ["The server and this browser have no video format in common."];
    return [info || "The server ended the stream."];
  }

  /** Why there is no session: the text, and an address that helps where there is one. */
  function explainSession(ended, wasEstablished) {
    const address = ended.getServerUrl();
    const detail = ended.getInfo();
    if (detail) return [detail + "."];
    if (wasEstablished) return [`The connection to ${address} was lost.`];
    if (secure && address.startsWith("wss:")) {
      return [`No answer from ${address}. Is the server running? A home-made certificate must be accepted once here:`, address.replace(/^wss:/, "https:")];
    }
    return [`No answer from ${address}. Is the server running?`];
  }

  function explainSnapshot(info, name) {
    if (info === STREAM_STATUS_INFO.STREAM_NOT_FOUND) return `Nobody publishes “${name}” on this server.`;
    return info || "The server gave no reason.";
  }

  // ---- connection --------------------------------------------------------------------------------------------------------

  /** Resolves with an established session to the address in the field; rejects after the status has been shown. */
  function connect() {
    const address = element("url").value.trim();
    if (session && session.getServerUrl() === address) return established;
    if (session) {
      const old = session;
      session = null;
      old.disconnect();
    }
    setStatus("PENDING", `Connecting to ${address}…`);
    established = new Promise((resolve, reject) => {
      let made;
      let wasEstablished = false;
      const ended = () => {
        if (session === made) {
          session = null;
          setStatus(made.status(), ...explainSession(made, wasEstablished));
        }
        reject(new Error(explainSession(made, wasEstablished).join(" ")));
      };
      try {
        // The server pings every 5 s; three silent times in a row mean that it is gone although no one closed the socket.
        made = Stillcast.createSession({ urlServer: address, receiveProbes: 3, probesInterval: 5000 });
      } catch (error) {
        setStatus(SESSION_STATUS.FAILED, `“${address}” is not a WebSocket address such as ${defaultUrl()}.`);
        reject(error);
        return;
      }
      session = made;
      made.on(SESSION_STATUS.ESTABLISHED, () => {
        wasEstablished = true;
        setStatus(SESSION_STATUS.ESTABLISHED);
        resolve(made);
      }).on(SESSION_STATUS.DISCONNECTED, ended).on(SESSION_STATUS.FAILED, ended);
    });
    return established;
  }

  function defaultUrl() {
    return secure ? `wss://${location.hostname}:${ports.wss}` : `ws://${location.hostname}:${ports.ws}`;
  }

  // ---- publishing --------------------------------------------------------------------------------------------------------

  async function start() {
    const name = element("streamName").value.trim();
    if (!name) {
      setStatus(STREAM_STATUS.FAILED, "Give the stream a name first.");
      element("streamName").focus();
      return;
    }
    lockPublishing(true, "Start");
    let connected;
    try {
      connected = await connect();
    } catch {
      lockPublishing(false, "Start");
      return;
    }
    publication = connected.createStream({ name, display: element("localVideo"), constraints: CAMERA });
    publication
      .on(STREAM_STATUS.PENDING, () => setStatus(STREAM_STATUS.PENDING, "Opening the camera and connecting…"))
      .on(STREAM_STATUS.PUBLISHING, () => {
        setStatus(STREAM_STATUS.PUBLISHING);
        element("liveSince").textContent = new Date().toLocaleTimeString([], { hour12: false });
        element("localFacts").hidden = false;
      })
      .on(STREAM_STATUS.UNPUBLISHED, () => ended(STREAM_STATUS.UNPUBLISHED))
      .on(STREAM_STATUS.FAILED, (stream) => ended(STREAM_STATUS.FAILED, ...explainStream(stream)))
      .publish();
    // From here on the button stops, also while the camera question is still open.
    lockPublishing(false, "Stop");

    function ended(word, ...text) {
      publication = null;
      element("localFacts").hidden = true;
      setStatus(word, ...text);
      lockPublishing(false, "Start");
    }
  }

  function stop() {
    lockPublishing(true, "Stop");
    publication.stop();
  }

  /** `busy`: the button waits for the server. The fields are locked from Start until the end. */
  function lockPublishing(busy, text) {
    const button = element("publishBtn");
    button.disabled = busy;
    button.textContent = text;
    button.dataset.running = text === "Stop";
    const locked = busy || text === "Stop";
    element("url").disabled = locked;
    element("streamName").disabled = locked;
  }

  // ---- snapshot ----------------------------------------------------------------------------------------------------------

  async function takeSnapshot() {
    const name = element("snapshotName").value.trim();
    if (!name) {
      setSnapshotStatus(STREAM_STATUS.FAILED, "Name the stream to snapshot first.");
      element("snapshotName").focus();
      return;
    }
    const button = element("snapshotBtn");
    button.disabled = true;
    setSnapshotStatus("processing…");
    try {
      const connected = await connect();
      const base64 = await requestSnapshot(connected, name);
      await showPicture(base64, name);
      setSnapshotStatus(STREAM_STATUS.SNAPSHOT_COMPLETE);
    } catch (error) {
      setSnapshotStatus(STREAM_STATUS.FAILED, error.message);
    }
    button.disabled = false;
  }

  /** Resolves with a base64 PNG. */
  function requestSnapshot(connected, name) {
    return new Promise((resolve, reject) => {
      const patience = setTimeout(() => reject(new Error("The server did not answer.")), SNAPSHOT_PATIENCE_MS);
      const fail = (text) => {
        clearTimeout(patience);
        reject(new Error(text));
      };
      connected.createStream({ name })
        .on(STREAM_EVENT, (event) => {
          if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_COMPLETED) {
            clearTimeout(patience);
            resolve(event.payload.snapshot);
          } else if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_FAILED) {
            fail(explainSnapshot(event.payload.info, name));
          }
        })
        // Reached without a failure event only when the connection broke.
        .on(STREAM_STATUS.FAILED, (stream) => fail(stream.getInfo() || "The connection was lost."))
        .snapshot();
    });
  }

  async function showPicture(base64, name) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const header = readPng(bytes);
    if (!header) throw new Error("The server sent something that is no PNG.");
    const image = element("dynImg");
    image.src = "data:image/png;base64," + base64;
    await image.decode();
    const arrived = Date.now();
    const stated = new Date(header.text["Creation Time"] || NaN);
    const captured = Number.isNaN(stated.getTime()) ? new Date(arrived) : stated;
    if (picture) URL.revokeObjectURL(picture.objectUrl);
    picture = {
      // Where the clocks disagree the age counts from the arrival; the picture was fresh then.
      since: Math.abs(arrived - captured.getTime()) < CLOCK_TRUST_MS ? Math.min(captured.getTime(), arrived) : arrived,
      objectUrl: URL.createObjectURL(new Blob([bytes], { type: "image/png" })),
    };
    image.alt = `Snapshot of ${name}, ${header.width} by ${header.height} pixels, ${captured.toLocaleTimeString()}`;
    image.hidden = false;
    element("snapshotScreen").dataset.filled = "true";
    element("pictureSize").textContent = `${header.width} × ${header.height}`;
    element("pictureBytes").textContent = bytes.length < 1024 * 1024 ? `${(bytes.length / 1024).toFixed(1)} KiB` : `${(bytes.length / 1024 / 1024).toFixed(2)} MiB`;
    element("pictureTime").textContent = `${captured.toLocaleTimeString([], { hour12: false })}.${String(captured.getMilliseconds()).padStart(3, "0")}`;
    element("pictureTime").dateTime = captured.toISOString();
    element("download").href = picture.objectUrl;
    element("download").download = `${name.replace(/[^\p{L}\p{N}._-]+/gu, "_")}-${captured.toISOString().replace(/[:.]/g, "-")}.png`;
    // The same server answers by HTTP where the page came from it.
    const link = element("pictureLink");
    link.hidden = new URL(element("url").value.trim()).hostname !== location.hostname;
    link.href = `/snapshots/${encodeURIComponent(name)}.png`;
    element("pictureFacts").hidden = false;
    showAge();
  }

  function showAge() {
    if (!picture) return;
    const milliseconds = Math.max(0, Date.now() - picture.since);
    const seconds = Math.floor(milliseconds / 1000);
    const text = milliseconds < 1000 ? `${milliseconds} ms` : seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
    element("pictureAge").textContent = text;
  }

  // ---- page --------------------------------------------------------------------------------------------------------------

  function showLocalSize() {
    const video = element("localVideo").querySelector("video");
    if (video && video.videoWidth) element("localSize").textContent = `${video.videoWidth} × ${video.videoHeight}`;
  }

  /** Ports, the strongest last: the usual ones, what the server says, a global of the page, the address of the page. */
  async function learnPorts() {
    try {
      const answer = await fetch("/health", { cache: "no-store" });
      if (answer.ok) takePorts((await answer.json()).ports);
    } catch {
      // Served by something else than the server itself: the usual ports stand.
    }
    takePorts(window.SERVER_PORTS);
    takePorts(Object.fromEntries(parameters));
  }

  function takePorts(stated) {
    for (const kind of Object.keys(ports)) {
      const port = Number(stated && stated[kind]);
      if (Number.isInteger(port) && port > 0 && port < 65536) ports[kind] = port;
    }
  }

  function randomName() {
    return Array.from(crypto.getRandomValues(new Uint8Array(4)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  /** Follows `source` until the reader has written something else. */
  function follow(target, source) {
    let own = target.value !== "";
    target.addEventListener("input", () => { own = target.value !== ""; });
    source.addEventListener("input", () => { if (!own) target.value = source.value; });
    if (!own) target.value = source.value;
  }

  async function prepare() {
    Stillcast.init();
    const url = element("url");
    element("streamName").value = parameters.get("name") || randomName();
    element("snapshotName").value = parameters.get("stream") || "";
    follow(element("snapshotName"), element("streamName"));
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
    setInterval(showAge, 1000);
    takePorts(window.SERVER_PORTS);
    takePorts(Object.fromEntries(parameters));
    url.value = defaultUrl();
    const guessed = url.value;
    await learnPorts();
    if (url.value === guessed && !url.disabled) url.value = defaultUrl();
  }

  prepare();
})();
