/**
 * What the demo pages share: the server's address, the one connection to it, and its answers in words.
 *
 * Address parameters of all of them: `?ws=8080`, `?wss=8443` (ports of the server).
 */
(function (root) {
  "use strict";

  const { SESSION_STATUS, STREAM_STATUS, STREAM_STATUS_INFO, ERROR_INFO } = Stillcast.constants;
  const secure = location.protocol === "https:";
  const ports = { ws: 8080, wss: 8443, http: 8081, https: 8444 };
  const parameters = new URLSearchParams(location.search);
  const TONES = {
    PUBLISHING: "good", PLAYING: "good", ESTABLISHED: "good", AVAILABLE: "good", SNAPSHOT_COMPLETE: "good",
    FAILED: "bad", DISCONNECTED: "bad", UNAVAILABLE: "bad", PENDING: "busy", PROCESSING: "busy", "processing…": "busy",
  };

  const element = (id) => document.getElementById(id);

  // ---- address -----------------------------------------------------------------------------------------------------------

  function defaultUrl() {
    return secure ? `wss://${location.hostname}:${ports.wss}` : `ws://${location.hostname}:${ports.ws}`;
  }

  /** Ports, the strongest last: the usual ones, what the server says, a global of the page, the address of the page. */
  async function learnPorts() {
    try {
      const answer = await fetch("/health", { cache: "no-store" });
      if (answer.ok) takePorts((await answer.json()).ports);
    } catch {
      // Served by something else than the server itself: the usual ports stand.
    }
    takeOwnPorts();
  }

  function takeOwnPorts() {
    takePorts(window.SERVER_PORTS);
    takePorts(Object.fromEntries(parameters));
  }

  function takePorts(stated) {
    for (const kind of Object.keys(ports)) {
      const port = Number(stated && stated[kind]);
      if (Number.isInteger(port) && port > 0 && port < 65536) ports[kind] = port;
    }
  }

  /** Fills the field with the server's address, as far as it is known and again when it is known better. */
  async function fillAddress(field) {
    takeOwnPorts();
    field.value = defaultUrl();
    const guessed = field.value;
    await learnPorts();
    if (field.value === guessed && !field.disabled) field.value = defaultUrl();
  }

  // ---- connection --------------------------------------------------------------------------------------------------------

  /** The one connection of a page, made anew when it is wanted and there is none. */
  class Connection {
    /**
     * @param {HTMLInputElement} field Where the address stands.
     * @param {(word: string, text?: string, link?: string) => void} tell Called with each state of the connection.
     */
    constructor(field, tell) {
      this.field = field;
      this.tell = tell;
      this.session = null;
      this.established = null;
    }

    /** Resolves with an established session to the address in the field; rejects after its end has been told. */
    connect() {
      const address = this.field.value.trim();
      if (this.session && this.session.getServerUrl() === address) return this.established;
      if (this.session) {
        const old = this.session;
        this.session = null;
        old.disconnect();
      }
      this.tell("PENDING", `Connecting to ${address}…`);
      this.established = new Promise((resolve, reject) => {
        let made;
        let wasEstablished = false;
        const ended = () => {
          const words = explainSession(made, wasEstablished);
          if (this.session === made) {
            this.session = null;
            this.tell(made.status(), ...words);
          }
          reject(new Error(words.join(" ")));
        };
        try {
          // The server pings every 5 s; three silent times in a row mean that it is gone although no one closed the socket.
          made = Stillcast.createSession({ urlServer: address, receiveProbes: 3, probesInterval: 5000 });
        } catch (error) {
          this.tell(SESSION_STATUS.FAILED, `“${address}” is not a WebSocket address such as ${defaultUrl()}.`);
          reject(error);
          return;
        }
        this.session = made;
        made.on(SESSION_STATUS.ESTABLISHED, () => {
          wasEstablished = true;
          this.tell(SESSION_STATUS.ESTABLISHED);
          resolve(made);
        }).on(SESSION_STATUS.DISCONNECTED, ended).on(SESSION_STATUS.FAILED, ended);
      });
      return this.established;
    }

    /** Whether the address in the field is that of the page's own server, whose files the page can link to. */
    isOwnServer() {
      try {
        return new URL(this.field.value.trim()).hostname === location.hostname;
      } catch {
        return false;
      }
    }
  }

  // ---- words -------------------------------------------------------------------------------------------------------------

  /**
   * Shows a status word, with a text that says what it means for the reader where that is not plain.
   * @param {string} prefix `""` for `#status`, `#info` and `#hint`; else the three begin with it: `#playStatus`.
   */
  function show(prefix, word, text = "", link = null) {
    const id = (name) => (prefix ? prefix + name[0].toUpperCase() + name.slice(1) : name);
    element(id("status")).textContent = word;
    element(id("status")).dataset.tone = TONES[word] || "idle";
    element(id("info")).textContent = text;
    const hint = element(id("hint"));
    if (hint) {
      hint.hidden = !link;
      if (link) Object.assign(hint, { href: link, textContent: link });
    }
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

  /** Why publishing failed: the text, and an address that helps where there is one. */
  function explainPublication(stream) {
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
    return [explainMedia(info) || info || "The server ended the stream."];
  }

  /** Why playing failed. */
  function explainPlaying(stream) {
    const [info, name] = [stream.getInfo(), stream.name()];
    const file = name.replace(/^vod(-live)?:\/\//i, "");
    switch (info) {
      case STREAM_STATUS_INFO.STREAM_NOT_FOUND: return `Nobody publishes “${name}” on this server.`;
      case STREAM_STATUS_INFO.STOPPED_BY_PUBLISHER_STOP: return file === name ? "The publisher stopped or was lost." : "The file is at its end, or was stopped.";
      case STREAM_STATUS_INFO.FILE_NOT_FOUND: return `File not found: the server’s media folder has no “${file}”.`;
      case STREAM_STATUS_INFO.FILE_HAS_WRONG_FORMAT: return `File has wrong format: the server does not play “${file}”. It takes MP4 with H.264 and AAC or Opus.`;
      case STREAM_STATUS_INFO.TRANSCODING_REQUIRED_BUT_DISABLED:
      case STREAM_STATUS_INFO.NO_AVAILABLE_TRANSCODERS:
        return `${info}: this stream, in this size and rate, would have to be coded anew for this browser, and the server does not do that now.`;
      case ERROR_INFO.LOCAL_ERROR: return `This browser could not play. ${stream.getErrorInfo()}`;
      default: return explainMedia(info) || info || "The server ended the stream.";
    }
  }

  /** How playing ended that did not fail; nothing where the reader wanted it. */
  function explainStop(stream) {
    switch (stream.getInfo()) {
      case STREAM_STATUS_INFO.STOPPED_BY_USER: return "";
      case STREAM_STATUS_INFO.STOPPED_BY_PUBLISHER_STOP: return "The file is at its end.";
      default: return stream.getInfo();
    }
  }

  function explainMedia(info) {
    if (info.startsWith("Failed by ICE")) return `${info}: the media connection was not made or was lost. A firewall may block UDP.`;
    if (info === STREAM_STATUS_INFO.NO_COMMON_CODECS) return "The server and this browser have no video format in common.";
    return "";
  }

  // ---- page --------------------------------------------------------------------------------------------------------------

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

  /** A button that starts and stops: its word, whether it waits for the server, and the fields that are locked meanwhile. */
  function setButton(button, text, busy, fields) {
    button.disabled = busy;
    button.textContent = text;
    button.dataset.running = text === "Stop";
    for (const field of fields) field.disabled = busy || text === "Stop";
  }

  root.Demo = Object.freeze({ parameters, fillAddress, Connection, show, explainPublication, explainPlaying, explainStop, randomName, follow, setButton });
})(window);
