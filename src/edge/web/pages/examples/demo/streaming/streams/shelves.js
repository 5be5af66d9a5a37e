/**
 * The lists of recordings and of files on demand below the live streams: asked for while somebody looks, one row for each file.
 */
(function () {
  "use strict";

  /** From one list to the next question; sooner while something is being recorded. */
  const INTERVAL_MS = 10000;
  const RUNNING_INTERVAL_MS = 3000;
  /** Rows that are shown before the reader asks for all. */
  const ROWS = 10;

  const element = (id) => document.getElementById(id);
  const looking = () => document.visibilityState === "visible";

  class Shelf {
    /**
     * @param {string} id Of the section.
     * @param {string} address Of the list.
     * @param {(answer: object) => object[]} files Takes the files out of the answer.
     * @param {(row: object) => Element[]} actions Makes what can be done with a file.
     */
    constructor(id, address, files, actions) {
      Object.assign(this, { section: element(id), address, files, actions });
      this.list = this.part("ul");
      /** Shown rows by file name: `{element, name, file, word, bytes, time}`. */
      this.rows = new Map();
      this.known = null;
      this.clockOffset = 0;
      this.isLong = false;
      this.timer = 0;
      this.asking = null;
      this.part(".rest button").addEventListener("click", () => this.showAll());
    }

    part(selector) { return this.section.querySelector(selector); }

    /** Someone looks, or nobody does any more. */
    look() {
      if (looking()) this.ask();
      else this.rest();
    }

    rest() {
      clearTimeout(this.timer);
      this.asking?.abort();
    }

    async ask() {
      clearTimeout(this.timer);
      if (this.asking) return;
      this.asking = new AbortController();
      try {
        const answer = await fetch(this.address, { cache: "no-store", signal: this.asking.signal });
        if (answer.ok) this.take(await answer.json());
      } catch {
        // Given up, or no server: the list of streams, which asks the same server, tells.
      }
      this.asking = null;
      const isRunning = this.known && this.known.some((file) => file.isRunning);
      if (looking()) this.timer = setTimeout(() => this.ask(), isRunning ? RUNNING_INTERVAL_MS : INTERVAL_MS);
    }

    take(answer) {
      this.clockOffset = answer.now - Date.now();
      this.known = this.files(answer);
      this.part(".left").hidden = answer.isWhole;
      this.section.hidden = false;
      this.update();
    }

    showAll() {
      const next = this.known[this.rows.size];
      this.isLong = true;
      this.update();
      // The button is gone: the focus goes on where the list does.
      this.rows.get(next?.fileName)?.element.querySelector("a, button").focus();
    }

    update() {
      const shown = this.isLong ? this.known : this.known.slice(0, ROWS);
      const kept = new Set(shown.map((file) => file.fileName));
      for (const [name, row] of this.rows) {
        if (kept.has(name)) continue;
        row.element.remove();
        this.rows.delete(name);
      }
      let place = this.list.firstElementChild;
      for (const file of shown) {
        const row = this.rows.get(file.fileName) || this.make(file);
        row.file = file;
        fill(row);
        // Only what stands elsewhere is moved: a moved element would lose the focus.
        if (row.element === place) place = place.nextElementSibling;
        else this.list.insertBefore(row.element, place);
      }
      this.part(".none").hidden = this.known.length > 0;
      this.part(".rest").hidden = shown.length === this.known.length;
      this.part(".rest button").textContent = `Show all ${this.known.length}`;
      this.tick();
    }

    make(file) {
      const made = element("row").content.firstElementChild.cloneNode(true);
      const part = (selector) => made.querySelector(selector);
      const row = { element: made, name: file.fileName, file, word: part(".word"), bytes: part(".bytes"), time: part("time") };
      part("bdi").textContent = file.fileName;
      part(".actions").append(...this.actions(row));
      this.rows.set(file.fileName, row);
      return row;
    }

    tick() {
      for (const { file, time } of this.rows.values()) {
        const age = Math.max(0, Date.now() + this.clockOffset - file.modifyDate);
        set(time, file.isRunning ? "now" : age < 1000 ? "just now" : `${Format.duration(age)} ago`);
      }
    }
  }

  function fill({ file, word, bytes, time }) {
    set(word, file.isRunning ? "recording" : "");
    set(bytes, Format.bytes(file.bytes));
    const written = new Date(file.modifyDate);
    if (time.dateTime !== written.toISOString()) {
      time.dateTime = written.toISOString();
      time.title = written.toLocaleString();
    }
  }

  function set(target, text) {
    if (target.textContent !== text) target.textContent = text;
  }

  // ---- what can be done with a file --------------------------------------------------------------------------------------

  function link(text, label, href) {
    const made = document.createElement("a");
    made.textContent = text;
    made.setAttribute("aria-label", label);
    made.href = href;
    return made;
  }

  const recordAddress = (name) => `/client/records/${encodeURIComponent(name)}`;

  function recordingActions(row) {
    const watch = document.createElement("button");
    watch.type = "button";
    watch.textContent = "Watch";
    watch.setAttribute("aria-label", `Watch ${row.name}`);
    watch.addEventListener("click", () => watchRecording(row));
    const download = link("Download", `Download ${row.name}`, recordAddress(row.name));
    download.download = row.name;
    return [watch, download];
  }

  function fileActions({ name }) {
    const player = (scheme) => `../player/player.html?streamName=${encodeURIComponent(scheme + name)}&autoplay=true`;
    return [
      link("Watch", `Watch ${name}`, player("vod://")),
      link("Watch together", `Watch ${name} together with others`, player("vod-live://")),
    ];
  }

  function watchRecording({ name, file }) {
    const video = element("watch").querySelector("video");
    element("watchTitle").textContent = name;
    element("watchDownload").href = recordAddress(name);
    element("watchDownload").download = name;
    tell(file.isRunning ? "It is still being recorded: this is what there is of it so far." : "");
    video.src = recordAddress(name);
    element("watch").showModal();
    video.play().catch(() => {
      // The reader presses play where the browser wants that; what cannot be played is told by the error.
    });
  }

  function tell(text) {
    element("watchNote").textContent = text;
    element("watchNote").hidden = !text;
  }

  // ---- page --------------------------------------------------------------------------------------------------------------

  const shelves = [
    new Shelf("recordings", "/rest-api/recorder/list", (answer) => answer.recordings, recordingActions),
    new Shelf("files", "/rest-api/vod/list", (answer) => answer.files, fileActions),
  ];
  const player = element("watch").querySelector("video");
  player.addEventListener("error", () => { if (player.hasAttribute("src")) tell("This browser cannot play the file; it can be downloaded."); });
  element("watch").addEventListener("close", () => {
    player.removeAttribute("src");
    player.load();
  });
  document.addEventListener("visibilitychange", () => shelves.forEach((shelf) => shelf.look()));
  // A page that is kept for “back” is not looked at, whatever its state says.
  addEventListener("pagehide", () => shelves.forEach((shelf) => shelf.rest()));
  addEventListener("pageshow", (event) => { if (event.persisted) shelves.forEach((shelf) => shelf.look()); });
  setInterval(() => { if (looking()) shelves.forEach((shelf) => shelf.tick()); }, 1000);
  shelves.forEach((shelf) => shelf.look());
})();
