/**
 * Stillcast client library: publish a camera to a Stillcast server, play live streams and files, and take PNG snapshots.
 *
 * One plain script, no build step, nothing to download besides it:
 *
 *     <script src="/client2/stillcast.js"></script>
 *     <script>
 *       Flashphoner.init();
 *       Flashphoner.createSession({urlServer: "wss://host:8443"}).on(SESSION_STATUS.ESTABLISHED, function (session) {
 *         session.createStream({name: "cam1", display: document.getElementById("localVideo")})
 *           .on(STREAM_STATUS.PUBLISHING, function (stream) { console.log(stream.name(), "is live"); })
 *           .on(STREAM_STATUS.FAILED, function (stream) { console.log(stream.getInfo(), stream.getErrorInfo()); })
 *           .publish();
 *       });
 *     </script>
 *
 * A snapshot needs no camera, only a session and the name of a published stream:
 *
 *     session.createStream({name: "cam1"}).on(STREAM_EVENT, function (event) {
 *       if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_COMPLETED) {
 *         image.src = "data:image/png;base64," + event.payload.snapshot;
 *       } else if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_FAILED) {
 *         console.log(event.payload.info);
 *       }
 *     }).snapshot();
 *
 * Playing needs the name of a published stream, or of a file (`vod://film.mp4`), and an element to show it in:
 *
 *     session.createStream({name: "cam1", display: document.getElementById("remoteVideo")})
 *       .on(STREAM_STATUS.PLAYING, function (stream) { console.log(stream.name(), "is shown"); })
 *       .on(STREAM_STATUS.FAILED, function (stream) { console.log(stream.getInfo()); })
 *       .play();
 *
 * The older style works too: `on(STREAM_STATUS.SNAPSHOT_COMPLETE, stream => stream.getInfo())`.
 *
 * The call shape is the one that pages written for Flashphoner's WebSDK use, as far as publishing, playing, recording, snapshots,
 * availability and stream events go; everything inside is our own. Globals: `Stillcast` (all of it), `Flashphoner` (the same object), and, because
 * published code samples use them bare, `SESSION_STATUS`, `STREAM_STATUS`, `STREAM_EVENT` and `STREAM_EVENT_TYPE`.
 */
(function (root) {
  "use strict";

  /** States of a {@link Session}; also the names of its events. */
  const SESSION_STATUS = Object.freeze({
    /** The socket is being opened. */
    PENDING: "PENDING",
    /** The socket is open, the server has not greeted yet. */
    CONNECTED: "CONNECTED",
    /** The server has greeted: streams can be created. */
    ESTABLISHED: "ESTABLISHED",
    /** The connection was closed after it had been open. Final. */
    DISCONNECTED: "DISCONNECTED",
    /** The connection could not be made, or broke with an error. Final. */
    FAILED: "FAILED",
    /** Event only: the server refused something; the callback gets its message with `info`. */
    WARN: "WARN",
    /** Event only: data from the server's application; the callback gets it. */
    APP_DATA: "APP_DATA",
  });

  /** States of a {@link Stream}; also the names of its events. */
  const STREAM_STATUS = Object.freeze({
    /** Created, nothing asked for yet. */
    NEW: "NEW",
    /** Publishing or playing was asked for: camera, negotiation and transport are being set up. */
    PENDING: "PENDING",
    /** Media reaches the server. */
    PUBLISHING: "PUBLISHING",
    /** Media comes from the server. */
    PLAYING: "PLAYING",
    /** Known to the protocol, sent by no server yet. */
    PAUSED: "PAUSED",
    /** Publishing ended by `stop()`. Final. */
    UNPUBLISHED: "UNPUBLISHED",
    /** Playing ended by `stop()`. Final. */
    STOPPED: "STOPPED",
    /** Something went wrong: `getInfo()` says what. Final. */
    FAILED: "FAILED",
    /** Event only, older style: a snapshot is ready, `getInfo()` is its base64 PNG. */
    SNAPSHOT_COMPLETE: "SNAPSHOT_COMPLETE",
    /** Event only, older style: the picture size changed. */
    RESIZE: "RESIZE",
    /** Event only, older style: the link is too slow for the stream. */
    NOT_ENOUGH_BANDWIDTH: "NOT_ENOUGH_BANDWIDTH",
    /** Answer to `available()`: somebody publishes this name. */
    AVAILABLE: "AVAILABLE",
    /** Answer to `available()`: nobody does; `getInfo()` says why. */
    UNAVAILABLE: "UNAVAILABLE",
  });

  /** Name of the event that carries all {@link STREAM_EVENT_TYPE} messages. */
  const STREAM_EVENT = "STREAM_EVENT";

  /** Values of `event.type` in a {@link STREAM_EVENT}. */
  const STREAM_EVENT_TYPE = Object.freeze({
    AUDIO_MUTED: "audioMuted",
    AUDIO_UNMUTED: "audioUnmuted",
    VIDEO_MUTED: "videoMuted",
    VIDEO_UNMUTED: "videoUnmuted",
    /** `payload` is what the publisher gave to `sendData`. */
    DATA: "data",
    /** `payload.snapshot` is the base64 PNG. */
    SNAPSHOT_COMPLETED: "snapshotCompleted",
    /** The same under the name that some manuals print. */
    SNAPSHOT_COMPLETE: "snapshotCompleted",
    /** `payload.info` is the reason. */
    SNAPSHOT_FAILED: "snapshotFailed",
    /** `payload.streamerVideoWidth` and `payload.streamerVideoHeight` are the size of the stream that is played. */
    RESIZE: "resize",
    /** `payload.info` is what the stream needs and what there is, `"1500000/800000"` bit/s. */
    NOT_ENOUGH_BANDWIDTH: "notEnoughBandwidth",
    /** From this side of the wire: the browser plays sound only after the reader did something; see `unmuteRemoteAudio()`. */
    UNMUTE_REQUIRED: "unmuteRequired",
  });

  /** Texts of `Stream.getInfo()` that come from the server. */
  const STREAM_STATUS_INFO = Object.freeze({
    FAILED_BY_ICE_ERROR: "Failed by ICE error",
    FAILED_BY_ICE_TIMEOUT: "Failed by ICE timeout",
    FAILED_BY_KEEP_ALIVE: "Failed by ICE keep alive",
    FAILED_BY_DTLS_FINGERPRINT_ERROR: "Failed by DTLS fingerprint error",
    FAILED_BY_DTLS_ERROR: "Failed by DTLS error",
    FAILED_BY_RTP_ACTIVITY: "Failed by RTP activity",
    FAILED_TO_ADD_STREAM_TO_PROXY: "Failed to add stream to proxy",
    STOPPED_BY_USER: "Stopped by user",
    STOPPED_BY_SESSION_DISCONNECT: "Stopped by session disconnect",
    STREAM_NOT_FOUND: "Stream not found",
    STREAM_NAME_ALREADY_IN_USE: "Stream name is already in use",
    STOPPED_BY_PUBLISHER_STOP: "Stopped by publisher stop",
    NO_COMMON_CODECS: "No common codecs",
    DISTRIBUTOR_STOPPED: "Distributor stopped",
    TRANSCODING_REQUIRED_BUT_DISABLED: "Transcoding required, but disabled",
    NO_AVAILABLE_TRANSCODERS: "No available transcoders",
    FILE_NOT_FOUND: "File not found",
    FILE_HAS_WRONG_FORMAT: "File has wrong format",
    FAILED_TO_READ_FILE: "Failed to read file",
    GOT_EXCEPTION_WHILE_STREAMING_FILE: "Got exception while streaming file",
    FAILED_TO_CONNECT_TO_RTSP_STREAM: "Failed to connect to rtsp stream",
    RTSP_STREAM_NOT_FOUND: "Rtsp stream not found",
    RTSP_HAS_WRONG_FORMAT: "Rtsp has wrong format",
    BAD_URI: "Bad URI",
  });

  /** Texts of `Stream.getInfo()` that come from this side of the wire. */
  const ERROR_INFO = Object.freeze({
    /** The camera could not be opened or the browser refused the server's answer; `getErrorInfo()` says more. */
    LOCAL_ERROR: "Local error",
  });

  const constants = Object.freeze({
    SESSION_STATUS, STREAM_STATUS, STREAM_EVENT, STREAM_EVENT_TYPE, STREAM_STATUS_INFO, ERROR_INFO,
  });

  /** Version of this library, sent nowhere. */
  const VERSION = "1.0.0";
  /** Version of the wire protocol, sent in the greeting. */
  const PROTOCOL_VERSION = "2.0";

  /** Statuses after which the server knows the stream's id no longer. */
  const FINAL_STREAM_STATUSES = new Set([STREAM_STATUS.UNPUBLISHED, STREAM_STATUS.STOPPED, STREAM_STATUS.FAILED]);
  /** Status frames that carry an event and leave the stream's state alone. */
  const EVENT_ONLY_STATUSES = new Set([STREAM_STATUS.SNAPSHOT_COMPLETE, STREAM_STATUS.RESIZE, STREAM_STATUS.NOT_ENOUGH_BANDWIDTH]);

  /** Open and opening sessions, by id. @type {Map<string, Session>} */
  const sessions = new Map();
  /** Local media kept for the next publication, by the element it is shown in. @type {WeakMap<Element, MediaStream>} */
  const localMedia = new WeakMap();

  /** A random UUID (RFC 9562 version 4). `crypto.randomUUID` would exist in secure contexts only. */
  function uuid() {
    const bytes = root.crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  }

  /** Calls a page's callback. What it throws is reported as an uncaught error and does not disturb the library. */
  function callSafely(callback, argument) {
    if (!callback) return;
    try {
      callback(argument);
    } catch (error) {
      setTimeout(() => { throw error; }, 0);
    }
  }

  /** Common part of {@link Session} and {@link Stream}: one callback an event, registered by chained calls. */
  class Emitter {
    constructor() {
      /** @private */
      this._callbacks = Object.create(null);
    }

    /**
     * Registers the callback of an event; a second registration replaces the first.
     * @param {string} event One of the status words, or `STREAM_EVENT`.
     * @param {function} callback Gets the session or the stream; for `STREAM_EVENT`, `WARN` and `APP_DATA` the message.
     * @returns {this} For chaining.
     */
    on(event, callback) {
      if (typeof event !== "string" || event === "") throw new TypeError("the event's name must be a string");
      if (typeof callback !== "function") throw new TypeError("the callback must be a function");
      this._callbacks[event] = callback;
      return this;
    }

    /** @private */
    _fire(event, argument) {
      callSafely(this._callbacks[event], argument);
    }
  }

  /**
   * One connection to a server. Made by {@link createSession}; becomes `ESTABLISHED` when the server has greeted, and ends in
   * `DISCONNECTED` or `FAILED`. It does not reconnect: make a new one.
   */
  class Session extends Emitter {
    /** @private */
    constructor(options) {
      super();
      this._id = uuid();
      this._options = options;
      this._status = SESSION_STATUS.PENDING;
      this._info = "";
      /** @type {Map<string, Stream>} */
      this._streams = new Map();
      this._errored = false;
      this._authToken = undefined;
      this._silentProbes = 0;
      this._timers = [];
      this._socket = new WebSocket(options.urlServer);
      this._socket.onopen = () => this._opened();
      this._socket.onmessage = (event) => this._received(event.data);
      this._socket.onerror = () => { this._errored = true; };
      this._socket.onclose = () => this._closed();
    }

    /** @returns {string} Id of this session in this page. */
    id() { return this._id; }

    /** @returns {string} One of {@link SESSION_STATUS}. */
    status() { return this._status; }

    /** @returns {string} Address given to `createSession`. */
    getServerUrl() { return this._options.urlServer; }

    /** @returns {string} What the server last complained about, or an empty text. */
    getInfo() { return this._info; }

    /**
     * Makes a stream object; nothing is sent before `publish()`, `play()`, `snapshot()` or `available()`.
     * @param {object} options
     * @param {string} options.name Stream name; to play also `vod://`, `vod-live://`, `rtsp://` and `rtmp://` addresses.
     * @param {Element} [options.display] Element that shows the camera or what is played; a `<video>` is put into it.
     * @param {object} [options.constraints] To publish, as for `getUserMedia`, default `{audio: true, video: true}`. Also
     *   `constraints.video.maxBitrate` in kbit/s and `constraints.customStream`, a MediaStream to send instead of the camera.
     *   To play: whether sound and picture are wanted; `constraints.video.width`, `height` and `bitrate` (kbit/s) ask for the
     *   stream in another size or rate, 0 or nothing for as it is published.
     * @param {boolean} [options.unmutePlayOnStart] False: what is played begins without sound, which browsers allow at any time.
     * @param {boolean} [options.cacheLocalResources] Keep the camera open and shown after the stream ends, for the next
     *   publication in the same `display`; `releaseLocalMedia(display)` closes it.
     * @param {boolean} [options.record] Ask the server to record.
     * @param {object} [options.custom] Data for the server's application.
     * @returns {Stream}
     */
    createStream(options) {
      if (this._status !== SESSION_STATUS.ESTABLISHED) throw new Error("the session is not established: " + this._status);
      if (!options || typeof options.name !== "string" || options.name === "") throw new TypeError("options.name must be a stream name");
      const stream = new Stream(this, options);
      this._streams.set(stream.id(), stream);
      return stream;
    }

    /** @returns {Stream|undefined} The stream of that id, while it is in use. */
    getStream(id) { return this._streams.get(id); }

    /** @returns {Stream[]} Streams in use. */
    getStreams() { return Array.from(this._streams.values()); }

    /** Closes the connection; every stream of it ends with `FAILED`, the session with `DISCONNECTED`. */
    disconnect() { this._socket.close(); }

    /** @private Sends one message; false when the socket is not open (then the close handler does the rest). */
    _send(message, argument) {
      if (this._socket.readyState !== WebSocket.OPEN) return false;
      this._socket.send(JSON.stringify({ message, data: [argument === undefined ? null : argument] }));
      return true;
    }

    /** @private */
    _opened() {
      this._setStatus(SESSION_STATUS.CONNECTED);
      const { appKey, custom, receiveProbes, probesInterval, pingInterval } = this._options;
      this._send("connection", {
        appKey: appKey || "defaultApp",
        mediaProviders: getMediaProviders(),
        clientVersion: PROTOCOL_VERSION,
        clientOSVersion: root.navigator.appVersion,
        clientBrowserVersion: root.navigator.userAgent,
        msePacketizationVersion: 2,
        custom,
      });
      if (pingInterval > 0) this._timers.push(setInterval(() => this._send("ping"), pingInterval));
      if (receiveProbes > 0 && probesInterval > 0) {
        this._timers.push(setInterval(() => {
          this._silentProbes += 1;
          if (this._silentProbes <= receiveProbes) return;
          this._errored = true;
          this._info = "The server has been silent for " + (receiveProbes * probesInterval) / 1000 + " s";
          // A dead peer never answers the closing handshake, so the end is declared here and not by `onclose`.
          this._socket.close();
          this._closed();
        }, probesInterval));
      }
    }

    /** @private */
    _closed() {
      this._socket.onclose = null;
      this._socket.onmessage = null;
      this._timers.forEach(clearInterval);
      this._timers = [];
      const failed = this._errored || this._status === SESSION_STATUS.PENDING;
      sessions.delete(this._id);
      this._status = failed ? SESSION_STATUS.FAILED : SESSION_STATUS.DISCONNECTED;
      for (const stream of this.getStreams()) stream._end(STREAM_STATUS.FAILED, "");
      this._fire(this._status, this);
    }

    /** @private */
    _setStatus(status) {
      this._status = status;
      this._fire(status, this);
    }

    /** @private */
    _received(text) {
      this._silentProbes = 0;
      if (typeof text !== "string") return;
      let frame;
      try {
        frame = JSON.parse(text);
      } catch (error) {
        console.warn("stillcast: a frame is not JSON", error);
        return;
      }
      const data = frame && Array.isArray(frame.data) ? frame.data : [];
      const first = data[0] && typeof data[0] === "object" ? data[0] : {};
      switch (frame && frame.message) {
        case "ping":
          this._send("pong");
          break;
        case "getUserData":
          this._authToken = first.authToken;
          this._setStatus(SESSION_STATUS.ESTABLISHED);
          break;
        case "setRemoteSDP":
          this._withStream(data[0], (stream) => stream._answered(String(data[1] || "")));
          break;
        case "notifyStreamStatusEvent":
          this._withStream(first.mediaSessionId, (stream) => stream._statusReceived(first));
          break;
        case "notifyStreamEvent":
          this._withStream(first.mediaSessionId, (stream) => stream._eventReceived(first));
          break;
        case "availableStream":
          this._withStream(first.id, (stream) => stream._availabilityReceived(first));
          break;
        case "fail":
          this._info = first.info || "";
          if (first.apiMethod === "StreamStatusEvent") this._withStream(first.id, (stream) => stream._statusReceived(first));
          this._fire(SESSION_STATUS.WARN, first);
          break;
        case "OnDataEvent":
          this._fire(SESSION_STATUS.APP_DATA, first);
          break;
        default: // Servers may say more than we know.
      }
    }

    /** @private Frames for a stream that has ended are dropped. */
    _withStream(id, action) {
      const stream = this._streams.get(id);
      if (stream) action(stream);
    }
  }

  /**
   * A publication, a stream that is played, or the means to ask for a snapshot or for availability. Made by
   * {@link Session#createStream}.
   * A stream that reached a final status is of no further use.
   */
  class Stream extends Emitter {
    /** @private */
    constructor(session, options) {
      super();
      this._session = session;
      this._options = options;
      this._id = uuid();
      this._status = STREAM_STATUS.NEW;
      this._info = "";
      this._errorInfo = "";
      this._recordName = undefined;
      this._published = false;
      this._played = false;
      this._audioState = undefined;
      this._videoState = undefined;
      this._offerSent = false;
      this._connection = null;
      this._media = null;
      this._video = null;
      this._snapshotReplies = 0;
    }

    /** @returns {string} Media session id: the id on the wire, and of the `<video>` element. */
    id() { return this._id; }

    /** @returns {string} Stream name. */
    name() { return this._options.name; }

    /** @returns {string} One of {@link STREAM_STATUS}. */
    status() { return this._status; }

    /** @returns {boolean} True after `publish()`. */
    published() { return this._published; }

    /** @returns {string} Text of the last status: the reason of a failure, or the base64 PNG in `SNAPSHOT_COMPLETE`. */
    getInfo() { return this._info; }

    /** @returns {string} With info `Local error`: what the browser said, beginning with the error's name. */
    getErrorInfo() { return this._errorInfo; }

    /** @returns {string|undefined} Name of the recording, once the server has told it. */
    getRecordInfo() { return this._recordName; }

    /** @returns {{muted: boolean}|undefined} Whether the publisher of what is played has turned the microphone off. */
    getAudioState() { return this._audioState; }

    /** @returns {{muted: boolean}|undefined} Whether the publisher of what is played has turned the camera off. */
    getVideoState() { return this._videoState; }

    /** @returns {{width: number, height: number}|{}} Size of the picture shown, or an empty object before there is one. */
    videoResolution() {
      return this._video && this._video.videoWidth ? { width: this._video.videoWidth, height: this._video.videoHeight } : {};
    }

    /**
     * Opens the camera and publishes it under the stream's name. `PENDING` at once, then `PUBLISHING` or `FAILED`.
     * @returns {this}
     */
    publish() {
      if (this._status !== STREAM_STATUS.NEW) throw new Error("the stream was already used: " + this._status);
      this._published = true;
      this._status = STREAM_STATUS.PENDING;
      this._session._streams.set(this._id, this);
      this._fire(STREAM_STATUS.PENDING, this);
      this._negotiate().catch((error) => this._failLocally(error));
      return this;
    }

    /**
     * Plays the stream of this name in `display`. `PENDING` at once, with the `<video>` in its place, then `PLAYING` or `FAILED`.
     * @returns {this}
     */
    play() {
      if (this._status !== STREAM_STATUS.NEW) throw new Error("the stream was already used: " + this._status);
      this._played = true;
      this._status = STREAM_STATUS.PENDING;
      this._session._streams.set(this._id, this);
      if (this._options.display) this._video = showRemoteMedia(this._options, this._id);
      this._fire(STREAM_STATUS.PENDING, this);
      this._negotiatePlaying().catch((error) => this._failLocally(error));
      return this;
    }

    /**
     * Asks the server for a picture of the newest frame of the stream of this name, whoever publishes it. Every request is
     * answered: `snapshotCompleted` or `snapshotFailed` as `STREAM_EVENT`, and for the older style `SNAPSHOT_COMPLETE`, or
     * `FAILED` if this object is not publishing.
     * @returns {this}
     */
    snapshot() {
      if (FINAL_STREAM_STATUSES.has(this._status)) throw new Error("the stream has ended: " + this._status);
      this._snapshotReplies = 0;
      this._session._streams.set(this._id, this);
      this._session._send("snapshot", { name: this.name(), mediaSessionId: this._id });
      return this;
    }

    /**
     * Asks whether anybody publishes this name: `AVAILABLE` or `UNAVAILABLE` follows.
     * @returns {this}
     */
    available() {
      this._session._streams.set(this._id, this);
      this._session._send("availableStream", { name: this.name(), mediaSessionId: this._id });
      return this;
    }

    /**
     * Ends the stream. A publication ends with `UNPUBLISHED`, and playing with `STOPPED`, when the server has confirmed, also in
     * the middle of being set up.
     * An object that never published ends at once with `FAILED`: set an empty callback if that is of no interest.
     */
    stop() {
      if (FINAL_STREAM_STATUSES.has(this._status)) return;
      if (this._status === STREAM_STATUS.NEW) {
        this._end(STREAM_STATUS.FAILED, "");
      } else if (this._offerSent) {
        this._sendEnd();
        this._closeConnection();
      } else {
        this._end(this._played ? STREAM_STATUS.STOPPED : STREAM_STATUS.UNPUBLISHED, STREAM_STATUS_INFO.STOPPED_BY_USER);
      }
    }

    /**
     * Sets how loud what is played is.
     * @param {number} volume From 0 to 100.
     */
    setVolume(volume) {
      if (this._played && this._video) this._video.volume = Math.min(Math.max(Number(volume) || 0, 0), 100) / 100;
    }

    /** @returns {number} From 0 to 100; -1 when nothing is played. */
    getVolume() { return this._played && this._video ? Math.round(this._video.volume * 100) : -1; }

    /** Plays without sound. */
    muteRemoteAudio() { if (this._played && this._video) this._video.muted = true; }
    /** Plays with sound again; browsers want this to come from something that the reader does. */
    unmuteRemoteAudio() { if (this._played && this._video) this._video.muted = false; }
    /** @returns {boolean} True where what is played has no sound for the reader. */
    isRemoteAudioMuted() { return Boolean(this._played && this._video && this._video.muted); }

    /**
     * Shows what is played on the whole screen.
     * @returns {Promise<void>} Rejects where the browser does not.
     */
    async fullScreen() {
      const video = this._played && this._video;
      if (!video) throw new Error("nothing is played");
      // Telephones of one maker know full screen of videos only.
      if (video.requestFullscreen) await video.requestFullscreen();
      else if (video.webkitEnterFullscreen) video.webkitEnterFullscreen();
      else throw new Error("this browser has no full screen");
    }

    /**
     * Tells what is sent and received, in the numbers of WebRTC's statistics.
     * @param {function} callback Gets `{outboundStream: {audio, video}, inboundStream: {audio, video}}`; each part is there while
     *   such media flow: the members of `outbound-rtp` or `inbound-rtp`, and `codec`, such as `H264`.
     * @returns {Promise<void>}
     */
    async getStats(callback) {
      const stats = { outboundStream: {}, inboundStream: {} };
      const reports = this._connection ? await this._connection.getStats() : new Map();
      for (const report of reports.values()) {
        const side = { "outbound-rtp": stats.outboundStream, "inbound-rtp": stats.inboundStream }[report.type];
        if (!side) continue;
        const codec = reports.get(report.codecId);
        side[report.kind] = Object.assign({ codec: codec ? codec.mimeType.split("/")[1] : "" }, report);
      }
      callSafely(callback, stats);
    }

    /** Sends silence, and tells subscribers so. */
    muteAudio() { this._mute("audio", true); }
    /** Sends sound again. */
    unmuteAudio() { this._mute("audio", false); }
    /** @returns {boolean} True where no sound is sent. */
    isAudioMuted() { return this._isMuted("audio"); }
    /** Sends a black picture, and tells subscribers so. */
    muteVideo() { this._mute("video", true); }
    /** Sends the picture again. */
    unmuteVideo() { this._mute("video", false); }
    /** @returns {boolean} True where no picture is sent. */
    isVideoMuted() { return this._isMuted("video"); }

    /**
     * Sends data to everybody who plays this stream.
     * @param {*} payload Anything that JSON can carry.
     */
    sendData(payload) {
      if (this._status !== STREAM_STATUS.PUBLISHING) throw new Error("data can be sent while publishing only: " + this._status);
      this._session._send("sendStreamEvent", { mediaSessionId: this._id, type: STREAM_EVENT_TYPE.DATA, payload });
    }

    /** @private Camera, offer, `publishStream`. After each wait the stream may have been stopped. */
    async _negotiate() {
      const { constraints = {}, display, record = false, custom } = this._options;
      const media = await this._openMedia(constraints, display);
      this._media = media;
      if (this._status !== STREAM_STATUS.PENDING) {
        this._releaseMedia();
        return;
      }
      const connection = new RTCPeerConnection(Object.assign({ bundlePolicy: "max-bundle" }, this._session._options.mediaOptions));
      this._connection = connection;
      connection.onconnectionstatechange = () => {
        if (connection.connectionState === "failed") this._failRemotely(STREAM_STATUS_INFO.FAILED_BY_ICE_ERROR);
      };
      // Audio first: servers and browsers order the media sections so.
      for (const track of [...media.getAudioTracks(), ...media.getVideoTracks()]) {
        connection.addTransceiver(track, { direction: "sendonly", streams: [media] });
        track.onended = () => this._failLocally(new Error("the " + (track.kind === "video" ? "camera" : "microphone") + " was taken away"));
      }
      const offer = await connection.createOffer();
      if (this._connection !== connection) return;
      await connection.setLocalDescription(offer);
      if (this._connection !== connection) return;
      const video = typeof constraints.video === "object" ? constraints.video : {};
      this._offerSent = this._session._send("publishStream", {
        mediaSessionId: this._id,
        name: this.name(),
        published: true,
        hasVideo: media.getVideoTracks().length > 0,
        hasAudio: media.getAudioTracks().length > 0,
        status: STREAM_STATUS.PENDING,
        record: Boolean(record),
        mediaProvider: "WebRTC",
        // The server learns our addresses from the checks that we send, so nothing waits for candidates.
        sdp: offer.sdp,
        bitrate: 0,
        minBitrate: 0,
        maxBitrate: Number(video.maxBitrate) || 0,
        custom,
      });
    }

    /** @private Offer and `playStream`. After each wait the stream may have been stopped. */
    async _negotiatePlaying() {
      const { constraints = {}, custom, playWidth, playHeight } = this._options;
      const connection = new RTCPeerConnection(Object.assign({ bundlePolicy: "max-bundle" }, this._session._options.mediaOptions));
      this._connection = connection;
      const media = new MediaStream();
      connection.onconnectionstatechange = () => {
        if (connection.connectionState === "failed") this._failRemotely(STREAM_STATUS_INFO.FAILED_BY_ICE_ERROR);
      };
      connection.ontrack = (event) => {
        media.addTrack(event.track);
        this._showTracks(media);
      };
      for (const kind of ["audio", "video"]) {
        if (constraints[kind] === undefined || constraints[kind]) connection.addTransceiver(kind, { direction: "recvonly" });
      }
      const offer = await connection.createOffer();
      if (this._connection !== connection) return;
      await connection.setLocalDescription(offer);
      if (this._connection !== connection) return;
      const video = typeof constraints.video === "object" ? constraints.video : {};
      this._offerSent = this._session._send("playStream", {
        mediaSessionId: this._id,
        name: this.name(),
        published: false,
        hasVideo: true,
        hasAudio: true,
        status: STREAM_STATUS.PENDING,
        record: false,
        width: Number(playWidth || video.width) || 0,
        height: Number(playHeight || video.height) || 0,
        mediaProvider: "WebRTC",
        sdp: offer.sdp,
        bitrate: Number(video.bitrate) || 0,
        minBitrate: 0,
        maxBitrate: 0,
        quality: Number(video.quality) || 0,
        custom,
      });
    }

    /** @private Shows what has come of the stream; without sound where the browser demands that. */
    _showTracks(media) {
      const video = this._video;
      if (!video) return;
      if (video.srcObject !== media) video.srcObject = media;
      video.play().catch((error) => {
        // A video that is loaded anew or taken away while it begins is no concern.
        if (error.name !== "NotAllowedError" || this._video !== video || video.muted) return;
        video.muted = true;
        video.play().catch(() => {});
        this._fire(STREAM_EVENT, { mediaSessionId: this._id, type: STREAM_EVENT_TYPE.UNMUTE_REQUIRED });
      });
    }

    /** @private */
    async _openMedia(constraints, display) {
      const media = constraints.customStream || (await openLocalMedia(constraints, display));
      if (display && this._status === STREAM_STATUS.PENDING) this._video = showLocalMedia(media, display, this._id);
      return media;
    }

    /** @private The server's answer to our offer. */
    async _answered(sdp) {
      const connection = this._connection;
      if (!connection) return;
      try {
        await connection.setRemoteDescription({ type: "answer", sdp });
        if (this._played) return;
        const constraints = this._options.constraints || {};
        const maxBitrate = typeof constraints.video === "object" ? Number(constraints.video.maxBitrate) : 0;
        const sender = connection.getSenders().find((candidate) => candidate.track && candidate.track.kind === "video");
        if (sender && maxBitrate > 0) {
          const parameters = sender.getParameters();
          parameters.encodings.forEach((encoding) => { encoding.maxBitrate = maxBitrate * 1000; });
          await sender.setParameters(parameters);
        }
      } catch (error) {
        if (this._connection === connection) this._failLocally(error);
      }
    }

    /** @private */
    _statusReceived(frame) {
      const { status, info } = frame;
      if (typeof status !== "string") return;
      this._info = info === undefined || info === null ? "" : String(info);
      if (frame.recordName !== undefined) this._recordName = frame.recordName;
      if (frame.audioState) this._audioState = frame.audioState;
      if (frame.videoState) this._videoState = frame.videoState;
      if (FINAL_STREAM_STATUSES.has(status)) {
        this._end(status, this._info);
        return;
      }
      if (!EVENT_ONLY_STATUSES.has(status)) this._status = status;
      this._fire(status, this);
      if (status === STREAM_STATUS.SNAPSHOT_COMPLETE) this._snapshotAnswered();
    }

    /** @private */
    _eventReceived(event) {
      if (/^audio(Unm|M)uted$/.test(event.type)) this._audioState = { muted: event.type === STREAM_EVENT_TYPE.AUDIO_MUTED };
      if (/^video(Unm|M)uted$/.test(event.type)) this._videoState = { muted: event.type === STREAM_EVENT_TYPE.VIDEO_MUTED };
      this._fire(STREAM_EVENT, event);
      if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_COMPLETED) this._snapshotAnswered();
    }

    /** @private A success comes in two frames, one for each style; after both a mere snapshot stream is forgotten. */
    _snapshotAnswered() {
      this._snapshotReplies += 1;
      if (this._snapshotReplies === 2 && this._status === STREAM_STATUS.NEW) this._session._streams.delete(this._id);
    }

    /** @private */
    _availabilityReceived(frame) {
      this._info = frame.info === undefined || frame.info === null ? "" : String(frame.info);
      if (this._status === STREAM_STATUS.NEW) this._session._streams.delete(this._id);
      // The protocol says the text "true"; a boolean would mean something else to older clients.
      this._fire(frame.status === "true" ? STREAM_STATUS.AVAILABLE : STREAM_STATUS.UNAVAILABLE, this);
    }

    /** @private */
    _sendEnd() {
      this._session._send(this._played ? "stopStream" : "unPublishStream", {
        mediaSessionId: this._id, name: this.name(), published: !this._played, hasVideo: true, hasAudio: true, status: this._status, record: false,
      });
    }

    /** @private Something failed on this side: the server is told to let the name go. */
    _failLocally(error) {
      if (FINAL_STREAM_STATUSES.has(this._status)) return;
      this._errorInfo = error && error.name && error.name !== "Error" ? error.name + ": " + error.message : String((error && error.message) || error);
      this._failRemotely(ERROR_INFO.LOCAL_ERROR);
    }

    /** @private */
    _failRemotely(info) {
      if (FINAL_STREAM_STATUSES.has(this._status)) return;
      if (this._offerSent) this._sendEnd();
      this._end(STREAM_STATUS.FAILED, info);
    }

    /** @private */
    _closeConnection() {
      if (this._connection) {
        this._connection.onconnectionstatechange = null;
        this._connection.ontrack = null;
        this._connection.close();
        this._connection = null;
      }
    }

    /** @private Final status: everything is given back before the callback runs, so that it may publish again. */
    _end(status, info) {
      this._session._streams.delete(this._id);
      this._closeConnection();
      this._releaseMedia();
      this._status = status;
      this._info = info;
      this._fire(status, this);
    }

    /** @private */
    _releaseMedia() {
      if (this._played) {
        hideVideo(this._video);
        this._video = null;
        return;
      }
      const { display, cacheLocalResources, constraints = {} } = this._options;
      const tracks = this._media ? this._media.getTracks() : [];
      tracks.forEach((track) => { track.onended = null; });
      const lost = tracks.some((track) => track.readyState === "ended");
      // A stream that the page brought along is the page's to close.
      if (this._media && constraints.customStream) hideLocalMedia(display);
      else if (this._media && (!cacheLocalResources || !display || lost)) releaseTracks(this._media, display);
      this._media = null;
      this._video = null;
    }

    /** @private */
    _mute(kind, muted) {
      if (!this._media) return;
      const tracks = kind === "audio" ? this._media.getAudioTracks() : this._media.getVideoTracks();
      if (tracks.length === 0) return;
      tracks.forEach((track) => { track.enabled = !muted; });
      const type = kind + (muted ? "Muted" : "Unmuted");
      if (this._status === STREAM_STATUS.PUBLISHING) this._session._send("sendStreamEvent", { mediaSessionId: this._id, type });
    }

    /** @private */
    _isMuted(kind) {
      const tracks = !this._media ? [] : kind === "audio" ? this._media.getAudioTracks() : this._media.getVideoTracks();
      return !tracks.some((track) => track.enabled);
    }
  }

  /** Opens camera and microphone, or takes what `display` already shows. Rejects as `getUserMedia` does. */
  async function openLocalMedia(constraints, display) {
    const wanted = {
      audio: constraints.audio === undefined ? true : constraints.audio,
      video: constraints.video === undefined ? true : constraints.video,
    };
    const kept = display && localMedia.get(display);
    if (kept) {
      const fits = Boolean(wanted.audio) === kept.getAudioTracks().length > 0 && Boolean(wanted.video) === kept.getVideoTracks().length > 0;
      if (fits && kept.getTracks().every((track) => track.readyState === "live")) return kept;
      releaseTracks(kept, display);
    }
    if (!root.navigator.mediaDevices) {
      const error = new Error("browsers open the camera only on https pages and on localhost");
      error.name = "SecurityError";
      throw error;
    }
    const media = await root.navigator.mediaDevices.getUserMedia(wanted);
    if (display) localMedia.set(display, media);
    return media;
  }

  /** Shows `media` in `display`, without its sound. */
  function showLocalMedia(media, display, id) {
    let video = display.querySelector("video");
    if (!video) {
      video = document.createElement("video");
      display.appendChild(video);
    }
    video.id = id;
    video.muted = true;
    video.autoplay = true;
    video.playsInline = true;
    if (video.srcObject !== media) video.srcObject = media;
    return video;
  }

  /** Makes the `<video>` of a stream that is played; each has one of its own. */
  function showRemoteMedia({ display, unmutePlayOnStart = true }, id) {
    const video = document.createElement("video");
    video.id = id;
    video.muted = !unmutePlayOnStart;
    video.playsInline = true;
    display.appendChild(video);
    return video;
  }

  function hideLocalMedia(display) {
    hideVideo(display && display.querySelector("video"));
  }

  function hideVideo(video) {
    if (!video) return;
    video.srcObject = null;
    video.remove();
  }

  function releaseTracks(media, display) {
    media.getTracks().forEach((track) => track.stop());
    if (display && (!localMedia.has(display) || localMedia.get(display) === media)) {
      localMedia.delete(display);
      hideLocalMedia(display);
    }
  }

  /**
   * Prepares the library. Present for pages that call it; there is nothing to prepare.
   * @returns {void}
   */
  function init() {}

  /**
   * Connects to a server.
   * @param {object} options
   * @param {string} options.urlServer `ws://host:8080` or, from https pages, `wss://host:8443`. The path means nothing.
   * @param {string} [options.appKey] Application key, default `defaultApp`.
   * @param {object} [options.custom] Data for the server's application.
   * @param {RTCConfiguration} [options.mediaOptions] Given to each RTCPeerConnection.
   * @param {number} [options.pingInterval] Milliseconds between pings of our own; 0 for none. The server pings every 5 s anyway.
   * @param {number} [options.receiveProbes] With `probesInterval`: the session fails when the server has been silent for
   *   this many intervals. 0 for no such watch.
   * @param {number} [options.probesInterval] Milliseconds.
   * @returns {Session}
   */
  function createSession(options) {
    if (!options || typeof options.urlServer !== "string" || options.urlServer === "") throw new TypeError("options.urlServer must be a WebSocket address");
    const session = new Session(options);
    sessions.set(session.id(), session);
    return session;
  }

  /** @returns {Session|undefined} The session of that id, while it lasts. */
  function getSession(id) { return sessions.get(id); }

  /** @returns {Session[]} Sessions that have not ended. */
  function getSessions() { return Array.from(sessions.values()); }

  /** @returns {string[]} `["WebRTC"]`, or nothing where the browser has no WebRTC. */
  function getMediaProviders() { return typeof root.RTCPeerConnection === "function" ? ["WebRTC"] : []; }

  /**
   * Opens camera and microphone and shows them, without publishing; the next `publish()` with the same `display` uses them.
   * @param {MediaStreamConstraints|null} constraints Default: both.
   * @param {Element} display
   * @returns {Promise<Element>} `display`.
   */
  async function getMediaAccess(constraints, display) {
    const media = await openLocalMedia(constraints || {}, display);
    showLocalMedia(media, display, uuid());
    return display;
  }

  /**
   * Closes the camera that is kept for `display`.
   * @param {Element} display
   * @returns {boolean} False if there was none.
   */
  function releaseLocalMedia(display) {
    const media = localMedia.get(display);
    if (!media) return false;
    releaseTracks(media, display);
    return true;
  }

  const api = Object.freeze({
    version: VERSION, constants, init, createSession, getSession, getSessions, getMediaProviders, getMediaAccess, releaseLocalMedia,
    SESSION_STATUS, STREAM_STATUS, STREAM_EVENT, STREAM_EVENT_TYPE, STREAM_STATUS_INFO, ERROR_INFO,
  });
  Object.assign(root, { Stillcast: api, Flashphoner: api, SESSION_STATUS, STREAM_STATUS, STREAM_EVENT, STREAM_EVENT_TYPE });
})(window);
