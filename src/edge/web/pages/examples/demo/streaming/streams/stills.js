/**
 * Live stills: fetches the picture of each card that is in sight, and of no other.
 *
 * A still is asked for with the tag of the one that is shown, so that an unchanged one costs the server no decode and the
 * network no picture. Nothing is asked while the page is hidden, paused or closed.
 */
(function (root) {
  "use strict";

  /** From one answer to the next question for the same stream. */
  const INTERVAL_MS = 2000;
  /** The same after an answer that will hardly change soon, such as a stream that cannot be decoded. */
  const LONG_INTERVAL_MS = 15000;
  /** Questions under way at once: cards take turns. */
  const AT_ONCE = 3;

  /**
   * @typedef {object} Answer
   * @property {Blob} [picture] A new picture.
   * @property {number} [capturedAt] When it was captured, by `performance.now()`.
   * @property {number} status HTTP status; 0 when there was no answer.
   * @property {string} message What the server said of an error.
   */

  class Stills {
    /** @param {(card: Element, answer: Answer) => void} show Called for each answer other than “unchanged”. */
    constructor(show) {
      this.show = show;
      /** By element: `{name, inSight, dueAt, tag, asking}`. */
      this.cards = new Map();
      this.asking = 0;
      this.running = false;
      this.timer = 0;
      this.watch = new IntersectionObserver((entries) => {
        for (const entry of entries) {
          const card = this.cards.get(entry.target);
          if (!card) continue;
          card.inSight = entry.isIntersecting;
          if (!card.inSight) card.asking?.abort();
        }
        this.turn();
      });
    }

    add(element, name) {
      this.cards.set(element, { name, inSight: false, dueAt: 0, tag: "", asking: null });
      this.watch.observe(element);
    }

    remove(element) {
      this.cards.get(element)?.asking?.abort();
      this.cards.delete(element);
      this.watch.unobserve(element);
    }

    /** Asks soon, whatever was said before: the stream has changed. */
    renew(element) {
      const card = this.cards.get(element);
      if (card) card.dueAt = 0;
      this.turn();
    }

    /** Starts or stops asking; what is under way is given up. */
    run(running) {
      this.running = running;
      if (!running) {
        clearTimeout(this.timer);
        for (const card of this.cards.values()) card.asking?.abort();
      }
      this.turn();
    }

    /** Asks for what is due, and comes back when the next is. */
    turn() {
      clearTimeout(this.timer);
      if (!this.running) return;
      const now = performance.now();
      const waiting = [...this.cards].filter(([, card]) => card.inSight && !card.asking).sort(([, a], [, b]) => a.dueAt - b.dueAt);
      for (const [element, card] of waiting) {
        if (card.dueAt > now) {
          this.timer = setTimeout(() => this.turn(), card.dueAt - now);
          break;
        }
        if (this.asking >= AT_ONCE) break;
        this.ask(element, card);
      }
    }

    async ask(element, card) {
      const asking = new AbortController();
      card.asking = asking;
      this.asking += 1;
      let pause = INTERVAL_MS;
      try {
        const answer = await fetchStill(element, card, asking.signal);
        if (this.cards.get(element) === card) {
          if (answer.status >= 400 && answer.status !== 503) pause = LONG_INTERVAL_MS;
          if (answer.status !== 304) this.show(element, answer);
        }
      } catch (error) {
        // Given up by us: whoever did knows why. Anything else is told by the list, which asks the same server.
        if (error.name !== "AbortError") pause = LONG_INTERVAL_MS;
      }
      card.asking = null;
      card.dueAt = performance.now() + (asking.signal.aborted ? 0 : pause);
      this.asking -= 1;
      this.turn();
    }
  }

  /** @returns {Promise<Answer>} */
  async function fetchStill(element, card, signal) {
    // Enough for the sharpness of the screen; two sizes only, so that readers share what is made.
    const width = devicePixelRatio * element.clientWidth > 420 ? 576 : 384;
    const answer = await fetch(`/stills/${encodeURIComponent(card.name)}.png?w=${width}`, {
      cache: "no-store", signal, headers: card.tag ? { "If-None-Match": card.tag } : {},
    });
    if (answer.status === 200) {
      const picture = await answer.blob();
      card.tag = answer.headers.get("ETag") || "";
      return { status: 200, message: "", picture, capturedAt: performance.now() - Number(answer.headers.get("X-Frame-Age-Ms")) };
    }
    if (answer.status === 304) return { status: 304, message: "" };
    card.tag = "";
    const said = await answer.json().catch(() => ({}));
    return { status: answer.status, message: String(said.message || `HTTP ${answer.status}`) };
  }

  root.Stills = Stills;
})(window);
