/**
 * Numbers as people read them.
 */
(function (root) {
  "use strict";

  /** @param {number} count Bytes. */
  function bytes(count) {
    const units = ["KiB", "MiB", "GiB", "TiB"];
    let value = count / 1024;
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) {
      value /= 1024;
      unit += 1;
    }
    return `${value.toFixed(unit === 0 ? 1 : 2)} ${units[unit]}`;
  }

  /** @param {number} milliseconds How long, in its largest unit or two. */
  function duration(milliseconds) {
    const seconds = Math.floor(milliseconds / 1000);
    if (seconds < 60) return `${seconds} s`;
    const minutes = Math.floor(seconds / 60);
    if (minutes < 60) return `${minutes} min`;
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
  }

  /** @param {number} seconds A place in a film: `1:05`, `1:02:03`. */
  function clock(seconds) {
    const whole = Math.floor(seconds);
    const two = (number) => String(number).padStart(2, "0");
    const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
    return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  }

  /** @param {number} bps Bits a second. */
  function bitrate(bps) {
    return bps >= 1e6 ? `${Math.round(bps / 1e5) / 10} Mbit/s` : `${Math.round(bps / 1000)} kbit/s`;
  }

  /** Codecs as people know them, by the names of RTP payload formats. */
  function codec(name) {
    return { H264: "H.264", VP8: "VP8", opus: "Opus", "mpeg4-generic": "AAC", PCMA: "G.711 A-law", PCMU: "G.711 µ-law" }[name] || name;
  }

  root.Format = Object.freeze({ bytes, duration, clock, bitrate, codec });
})(window);
