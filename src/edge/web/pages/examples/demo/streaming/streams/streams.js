/**
 * The list of live streams: asks for it while somebody looks, and keeps one card for each stream.
 */
(function () {
  "use strict";

  /** From one list to the next question. */
  const LIST_INTERVAL_MS = 3000;
  /** The same with more streams than this: a long list changes little in three seconds. */
  const LONG_LIST = 200;
  const LONG_LIST_INTERVAL_MS = 10000;
  /** A still older than this is marked. */
  const OLD_STILL_MS = 15000;
  const PROTOCOLS = { webrtc: "WebRTC", rtmp: "RTMP", rtmp_pull: "RTMP, pulled", rtsp: "RTSP", rtsp_pull: "RTSP, pulled", vod: "File", test_card: "Test card" };
  const ORDERS = {
    newest: (a, b) => b.epoch - a.epoch,
    oldest: (a, b) => a.epoch - b.epoch,
    name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
    bitrate: (a, b) => b.bitrate - a.bitrate || a.epoch - b.epoch,
    viewers: (a, b) => b.viewers - a.viewers || a.epoch - b.epoch,
  };

  const element = (id) => document.getElementById(id);
  /** Shown cards by epoch: `{element, part, stream, still: {url, capturedAt}|null}`. */
  const cards = new Map();
  /** The newest list, or null before the first. */
  let streams = null;
  /** Server's clock less ours. */
  let clockOffset = 0;
  let paused = false;
  let asking = null;
  let timer = 0;
  const byElement = new Map();
  const stills = new Stills(showStill);

  // ---- the list ----------------------------------------------------------------------------------------------------------

  const looking = () => document.visibilityState === "visible";

  async function ask() {
    clearTimeout(timer);
    if (asking || !looking()) return;
    asking = new AbortController();
    let pause = LIST_INTERVAL_MS;
    try {
      const answer = await fetch("/rest-api/stream/list", { cache: "no-store", signal: asking.signal });
      if (!answer.ok) throw new Error(answer.status === 401 ? "The server wants a user name and a password; load the page again to give them." : `The server answers ${answer.status}.`);
      const list = await answer.json();
      clockOffset = list.now - Date.now();
      streams = list.streams;
      if (streams.length > LONG_LIST) pause = LONG_LIST_INTERVAL_MS;
      tellTrouble("");
      update();
    } catch (error) {
      if (error.name === "AbortError") pause = 0;
      else tellTrouble(error instanceof TypeError ? "No answer from the server. Trying again…" : error.message);
    }
    asking = null;
    if (looking()) timer = setTimeout(ask, pause);
  }

  /** Someone looks, or nobody does any more. */
  function look() {
    stills.run(looking() && !paused);
    if (looking()) {
      ask();
    } else {
      clearTimeout(timer);
      asking?.abort();
    }
  }

  function tellTrouble(text) {
    if (element("trouble").textContent !== text) element("trouble").textContent = text;
    element("trouble").hidden = !text;
  }

  // ---- cards -------------------------------------------------------------------------------------------------------------

  function wanted() {
    const words = element("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (stream) => {
      const text = [stream.name, PROTOCOLS[stream.protocol], ...codecs(stream)].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    };
    return streams.filter(matches).sort(ORDERS[element("order").value]);
  }

  function update() {
    if (!streams) return;
    const shown = wanted();
    const kept = new Set(shown.map((stream) => stream.epoch));
    for (const [epoch, card] of cards) if (!kept.has(epoch)) drop(epoch, card);
    let place = element("streams").firstElementChild;
    for (const stream of shown) {
      const card = cards.get(stream.epoch) || make(stream);
      fill(card, stream);
      // Only what stands elsewhere is moved: a moved element would lose the focus.
      if (card.element === place) place = place.nextElementSibling;
      else element("streams").insertBefore(card.element, place);
    }
    const all = streams.length;
    element("tools").hidden = all === 0;
    element("empty").hidden = all > 0;
    const count = (number) => `${number} live ${number === 1 ? "stream" : "streams"}`;
    const summary = all === 0 ? "" : shown.length === all ? count(all) : `${shown.length} of ${count(all)}`;
    if (element("summary").textContent !== summary) element("summary").textContent = summary;
    tick();
  }

  function make(stream) {
    const made = element("card").content.firstElementChild.cloneNode(true);
    const part = (selector) => made.querySelector(selector);
    const card = {
      element: made, stream: null, still: null,
      screen: part(".screen"), image: part("img"), why: part(".why"), age: part(".age"), title: part("h2"), protocol: part(".protocol"),
      muted: part(".muted .word"), picture: part(".picture"), codecs: part(".codecs"), rate: part(".rate"), lived: part(".lived"), viewers: part(".viewers"),
    };
    const encoded = encodeURIComponent(stream.name);
    const id = `stream-${stream.epoch}`;
    part("article").setAttribute("aria-labelledby", id);
    card.title.id = id;
    card.title.textContent = stream.name;
    card.title.title = stream.name;
    // A file that is played for one viewer is nobody else's to watch.
    part(".watch").hidden = /^vod:\/\//i.test(stream.name);
    part(".watch").href = `../player/player.html?streamName=${encoded}&autoplay=true`;
    part(".watch").setAttribute("aria-label", `Watch ${stream.name}`);
    part(".snapshot").href = `../stream-snapshot/stream-snapshot.html?stream=${encoded}`;
    part(".snapshot").setAttribute("aria-label", `Snapshot of ${stream.name}`);
    card.screen.href = `/snapshots/${encoded}.png`;
    card.screen.setAttribute("aria-label", `Newest picture of ${stream.name}, full size`);
    cards.set(stream.epoch, card);
    byElement.set(card.screen, card);
    return card;
  }

  function drop(epoch, card) {
    stills.remove(card.screen);
    byElement.delete(card.screen);
    if (card.still) URL.revokeObjectURL(card.still.url);
    card.element.remove();
    cards.delete(epoch);
  }

  function fill(card, stream) {
    const before = card.stream;
    card.stream = stream;
    const mayShow = stream.isLive && stream.hasVideo;
    const mightShow = Boolean(before && before.isLive && before.hasVideo);
    if (mayShow && !mightShow) {
      setWhy(card, "");
      stills.add(card.screen, stream.name);
    } else if (!mayShow && (mightShow || !before)) {
      stills.remove(card.screen);
      forgetStill(card);
    } else if (mayShow && (before.videoCodec !== stream.videoCodec || before.width !== stream.width || before.height !== stream.height)) {
      stills.renew(card.screen);
    }
    if (!stream.isLive) setWhy(card, "Connecting…");
    else if (!stream.hasVideo) setWhy(card, "Sound only: there is no picture");
    set(card.protocol, PROTOCOLS[stream.protocol] || stream.protocol);
    const muted = [stream.videoMuted && "Camera off", stream.audioMuted && "Microphone off"].filter(Boolean).join(", ");
    set(card.muted, muted);
    card.muted.parentElement.hidden = !muted;
    set(card.picture, stream.width ? `${stream.width} × ${stream.height}` : "none");
    set(card.codecs, codecs(stream).join(", ") || "unknown yet");
    const rate = [stream.fps && `${round(stream.fps)} fps`, stream.bitrate && Format.bitrate(stream.bitrate)].filter(Boolean).join(", ");
    set(card.rate, rate || "unknown yet");
    set(card.viewers, String(stream.viewers));
  }

  const codecs = (stream) => [stream.hasVideo && stream.videoCodec, stream.hasAudio && stream.audioCodec].filter(Boolean).map(Format.codec);
  const round = (number) => String(Math.round(number * 10) / 10);

  function set(target, text) {
    if (target.textContent !== text) target.textContent = text;
  }

  // ---- stills ------------------------------------------------------------------------------------------------------------

  /** Called by `stills`. */
  function showStill(screen, answer) {
    const card = byElement.get(screen);
    if (!card) return;
    if (answer.picture) {
      const old = card.still;
      card.still = { url: URL.createObjectURL(answer.picture), capturedAt: answer.capturedAt };
      card.image.onload = () => { if (old) URL.revokeObjectURL(old.url); };
      card.image.src = card.still.url;
      card.image.hidden = false;
      setWhy(card, "");
    } else if (answer.status === 503) {
      // What is shown stays, and its age tells how old it is.
      if (!card.still) setWhy(card, answer.message === "No keyframe yet" ? "Waiting for a keyframe…" : "The server is busy…");
    } else {
      forgetStill(card);
      setWhy(card, answer.status === 404 ? "Ended" : `No picture: ${answer.message.replace(/^Snapshot taking error: /, "")}`);
    }
    tickCard(card);
  }

  function forgetStill(card) {
    if (card.still) URL.revokeObjectURL(card.still.url);
    card.still = null;
    card.image.hidden = true;
    card.image.removeAttribute("src");
  }

  function setWhy(card, text) {
    set(card.why, text);
  }

  // ---- time --------------------------------------------------------------------------------------------------------------

  function tick() {
    for (const card of cards.values()) tickCard(card);
  }

  function tickCard(card) {
    set(card.lived, Format.duration(Math.max(0, Date.now() + clockOffset - card.stream.createDate)));
    card.age.hidden = !card.still;
    if (!card.still) return;
    const age = Math.max(0, performance.now() - card.still.capturedAt);
    set(card.age, age < 1000 ? "now" : `${Format.duration(age)} ago`);
    card.age.dataset.old = String(age > OLD_STILL_MS);
  }

  // ---- page --------------------------------------------------------------------------------------------------------------

  /** How encoders reach this server, where it has a port for them. */
  async function tellWays() {
    try {
      const { ports = {} } = await (await fetch("/health", { cache: "no-store" })).json();
      const tell = (id, text) => {
        element(id).querySelector("code").textContent = text;
        element(id).hidden = false;
      };
      if (ports.rtmp) tell("emptyRtmp", `rtmp://${location.hostname}:${ports.rtmp}/live/<name>`);
      if (ports.rtsp) tell("emptyRtsp", `rtsp://${location.hostname}:${ports.rtsp}/<name>`);
    } catch {
      // The list tells that there is no answer.
    }
  }

  element("find").addEventListener("input", update);
  element("order").addEventListener("change", update);
  element("tools").addEventListener("submit", (event) => event.preventDefault());
  element("pause").addEventListener("click", () => {
    paused = !paused;
    element("pause").setAttribute("aria-pressed", String(paused));
    look();
  });
  document.addEventListener("visibilitychange", look);
  // A page that is kept for “back” is not looked at, whatever its state says.
  addEventListener("pagehide", () => {
    clearTimeout(timer);
    asking?.abort();
    stills.run(false);
  });
  addEventListener("pageshow", (event) => { if (event.persisted) look(); });
  setInterval(() => { if (looking()) tick(); }, 1000);
  tellWays();
  look();
})();
