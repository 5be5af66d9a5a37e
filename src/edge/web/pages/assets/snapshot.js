/**
 * The part of a page that shows a snapshot: asks for it, shows it with its facts, offers it for download.
 *
 * The page has the elements `snapshotStatus`, `snapshotInfo`, `snapshotScreen` with `dynImg` in it, and `pictureFacts` with what
 * stands in there.
 */
(function (root) {
  "use strict";

  const { STREAM_STATUS, STREAM_STATUS_INFO, STREAM_EVENT_TYPE } = Stillcast.constants;
  /** The server gives up after 3 s by default; whoever says nothing for this long is not going to. */
  const PATIENCE_MS = 15000;
  /** A picture younger or older than this at arrival means that the two clocks disagree. */
  const CLOCK_TRUST_MS = 60000;

  const element = (id) => document.getElementById(id);

  class SnapshotPanel {
    /** @param {Demo.Connection} connection For the link to the picture by HTTP. */
    constructor(connection) {
      this.connection = connection;
      /** What is known of the picture shown, or null. */
      this.picture = null;
      /** Settles the question under way, or null. */
      this.asked = null;
      setInterval(() => this.showAge(), 1000);
    }

    /**
     * Asks for a picture and shows it, or why there is none. Never rejects.
     * @param {() => Promise<Stillcast.Stream>|Stillcast.Stream} getStream Gives the stream to ask; the page hands its events on to
     *   {@link hear} and its end to {@link lost}.
     */
    async take(getStream) {
      Demo.show("snapshot", "processing…");
      try {
        const stream = await getStream();
        const base64 = await this.ask(stream);
        await this.showPicture(base64, stream.name());
        Demo.show("snapshot", STREAM_STATUS.SNAPSHOT_COMPLETE);
      } catch (error) {
        this.fail(error.message);
      }
    }

    fail(text) {
      Demo.show("snapshot", STREAM_STATUS.FAILED, text);
    }

    /** Resolves with a base64 PNG. */
    ask(stream) {
      return new Promise((resolve, reject) => {
        const settle = (action) => (value) => {
          clearTimeout(patience);
          this.asked = null;
          action(value);
        };
        const asked = { name: stream.name(), resolve: settle(resolve), reject: settle(reject) };
        const patience = setTimeout(() => asked.reject(new Error("The server did not answer.")), PATIENCE_MS);
        this.asked = asked;
        try {
          stream.snapshot();
        } catch (error) {
          asked.reject(error);
        }
      });
    }

    /** An event of the stream that was asked. */
    hear(event) {
      if (!this.asked) return;
      if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_COMPLETED) {
        this.asked.resolve(event.payload.snapshot);
      } else if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_FAILED) {
        const info = event.payload.info;
        const isGone = info === STREAM_STATUS_INFO.STREAM_NOT_FOUND;
        this.asked.reject(new Error(isGone ? `Nobody publishes “${this.asked.name}” on this server.` : info || "The server gave no reason."));
      }
    }

    /** The stream that was asked has ended; without an answer only when something broke. */
    lost(text) {
      if (this.asked) this.asked.reject(new Error(text || "The connection was lost."));
    }

    async showPicture(base64, name) {
      const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const header = readPng(bytes);
      if (!header) throw new Error("The server sent something that is no PNG.");
      const image = element("dynImg");
      image.src = "data:image/png;base64," + base64;
      await image.decode();
      const arrived = Date.now();
      const stated = new Date(header.text["Creation Time"] || NaN);
      const captured = Number.isNaN(stated.getTime()) ? new Date(arrived) : stated;
      if (this.picture) URL.revokeObjectURL(this.picture.objectUrl);
      this.picture = {
        // Where the clocks disagree the age counts from the arrival; the picture was fresh then.
        since: Math.abs(arrived - captured.getTime()) < CLOCK_TRUST_MS ? Math.min(captured.getTime(), arrived) : arrived,
        objectUrl: URL.createObjectURL(new Blob([bytes], { type: "image/png" })),
      };
      image.alt = `Snapshot of ${name}, ${header.width} by ${header.height} pixels, ${captured.toLocaleTimeString()}`;
      image.hidden = false;
      element("snapshotScreen").dataset.filled = "true";
      element("pictureSize").textContent = `${header.width} × ${header.height}`;
      element("pictureBytes").textContent = Format.bytes(bytes.length);
      element("pictureTime").textContent = `${captured.toLocaleTimeString([], { hour12: false })}.${String(captured.getMilliseconds()).padStart(3, "0")}`;
      element("pictureTime").dateTime = captured.toISOString();
      element("download").href = this.picture.objectUrl;
      element("download").download = `${name.replace(/[^\p{L}\p{N}._-]+/gu, "_")}-${captured.toISOString().replace(/[:.]/g, "-")}.png`;
      const link = element("pictureLink");
      // A file that is played for one viewer has no picture for others.
      link.hidden = !this.connection.isOwnServer() || /^vod:/i.test(name);
      link.href = `/snapshots/${encodeURIComponent(name)}.png`;
      element("pictureFacts").hidden = false;
      this.showAge();
    }

    showAge() {
      if (!this.picture) return;
      const milliseconds = Math.max(0, Date.now() - this.picture.since);
      const seconds = Math.floor(milliseconds / 1000);
      const text = milliseconds < 1000 ? `${milliseconds} ms` : seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
      element("pictureAge").textContent = text;
    }
  }

  root.SnapshotPanel = SnapshotPanel;
})(window);
