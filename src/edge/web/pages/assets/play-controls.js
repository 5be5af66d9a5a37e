/**
 * The controls of a stream that is played: volume, mute, full screen, and what is known of the picture.
 *
 * The page has the elements `muteBtn`, `volume`, `fullScreenBtn`, `soundNote`, `streamNote`, and `playFacts` with `resolution`,
 * `codecs`, `rate` and `lost` in it.
 */
(function (root) {
  "use strict";

  const { STREAM_EVENT_TYPE } = Stillcast.constants;
  const STATS_INTERVAL_MS = 1000;

  const element = (id) => document.getElementById(id);

  class PlayControls {
    constructor() {
      /** The stream that is played, or null. */
      this.stream = null;
      this.before = null;
      element("muteBtn").addEventListener("click", () => this.toggleMute());
      element("volume").addEventListener("input", () => this.changeVolume());
      element("fullScreenBtn").addEventListener("click", () => this.fillScreen());
      setInterval(() => this.readStats(), STATS_INTERVAL_MS);
    }

    /** @param {Stillcast.Stream} stream It plays from now on. */
    begin(stream) {
      this.stream = stream;
      this.before = null;
      stream.setVolume(Number(element("volume").value));
      for (const id of ["muteBtn", "volume", "fullScreenBtn"]) element(id).disabled = false;
      this.showSound();
      this.showMutes();
      this.readStats();
    }

    end() {
      this.stream = null;
      for (const id of ["muteBtn", "volume", "fullScreenBtn"]) element(id).disabled = true;
      element("soundNote").hidden = true;
      element("streamNote").hidden = true;
      element("playFacts").hidden = true;
    }

    /** An event of the stream that is played. */
    hear(event) {
      if (event.type === STREAM_EVENT_TYPE.UNMUTE_REQUIRED) this.showSound();
      else if (event.type === STREAM_EVENT_TYPE.NOT_ENOUGH_BANDWIDTH) this.note("Your connection is too slow for this stream: pictures are left out.");
      else if (event.type !== STREAM_EVENT_TYPE.DATA) this.showMutes();
    }

    toggleMute() {
      if (this.stream.isRemoteAudioMuted()) this.stream.unmuteRemoteAudio();
      else this.stream.muteRemoteAudio();
      this.showSound();
    }

    changeVolume() {
      if (!this.stream) return;
      this.stream.setVolume(Number(element("volume").value));
      // Whoever moves the slider wants to hear something.
      if (this.stream.isRemoteAudioMuted()) this.stream.unmuteRemoteAudio();
      this.showSound();
    }

    async fillScreen() {
      try {
        await this.stream.fullScreen();
      } catch (error) {
        this.note(`No full screen: ${error.message}`);
      }
    }

    showSound() {
      if (!this.stream) return;
      const muted = this.stream.isRemoteAudioMuted();
      element("muteBtn").textContent = muted ? "Unmute" : "Mute";
      element("muteBtn").setAttribute("aria-pressed", String(muted));
      element("soundNote").hidden = !muted;
    }

    showMutes() {
      if (!this.stream) return;
      const isMuted = (state) => Boolean(state && state.muted);
      const off = [isMuted(this.stream.getVideoState()) && "camera", isMuted(this.stream.getAudioState()) && "microphone"].filter(Boolean);
      this.note(off.length ? `The publisher has turned the ${off.join(" and the ")} off.` : "");
    }

    note(text) {
      element("streamNote").textContent = text;
      element("streamNote").hidden = !text;
    }

    async readStats() {
      const stream = this.stream;
      if (!stream) return;
      const { inboundStream: { audio, video } } = await statsOf(stream);
      if (this.stream !== stream || (!audio && !video)) return;
      const { width, height } = stream.videoResolution();
      const fps = video && video.framesPerSecond;
      element("resolution").textContent = width ? `${width} × ${height}${fps ? `, ${Math.round(fps)} fps` : ""}` : video ? "waiting…" : "sound only";
      element("codecs").textContent = [video, audio].filter(Boolean).map(({ codec }) => Format.codec(codec)).filter(Boolean).join(", ") || "waiting…";
      const now = { bytes: sum("bytesReceived"), at: (video || audio).timestamp };
      const elapsed = this.before ? now.at - this.before.at : 0;
      if (elapsed > 0) element("rate").textContent = Format.bitrate(((now.bytes - this.before.bytes) * 8000) / elapsed);
      else if (!this.before) element("rate").textContent = "measuring…";
      this.before = now;
      element("lost").textContent = String(sum("packetsLost"));
      element("playFacts").hidden = false;

      function sum(key) {
        return [audio, video].reduce((total, part) => total + ((part && part[key]) || 0), 0);
      }
    }
  }

  /** The numbers of a stream's connection as a promise. */
  function statsOf(stream) {
    return new Promise((resolve, reject) => { stream.getStats(resolve).catch(reject); });
  }

  root.PlayControls = PlayControls;
  root.statsOf = statsOf;
})(window);
