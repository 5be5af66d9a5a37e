// The list of live streams: what it shows, that it is kind to the server, and that names cannot harm it.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { startServer, until } from "./support/server.mjs";

const PUBLISH = "/client2/examples/demo/streaming/stream-snapshot/stream-snapshot.html";
/** Each is legal, and means something else to a path, a query, a page or a shell. */
const NAMES = ["live/cam/1?x=y#z", "../../etc/passwd", `"><img src=x onerror=alert(1)>'`, "Küche & Söhne 📷", "100%25 + 1"];
/** Longer than the pause between two stills of one stream and the time that one takes. */
const SEVERAL_STILLS_MS = 7000;

describe("list of live streams", { skip: noBrowser, timeout: 300000 }, () => {
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    // No decoder runs in step, and no group of pictures fills its cache, for which a publisher would be asked for a
    // keyframe too: what is counted is what the page asks for.
    const settings = { demo_size: "640x360", snapshot_watch_ms: 0, gop_units_max: 20000, gop_bytes_max: "256MiB" };
    server = await startServer({ settings, arguments: ["--demo"] });
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  const open = (options = {}) => openTab(browser, server.http("/"), options);
  const card = (tab, name) => tab.page.locator("#streams > li").filter({ has: tab.page.getByRole("heading", { name, exact: true }) });
  const picture = (tab, name) => card(tab, name).locator("img");
  const settled = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

  async function publish(name, query = "") {
    const tab = await openTab(browser, server.http(PUBLISH) + query, { ports: { ws: server.ports.ws } });
    await tab.page.fill("#streamName", name);
    await tab.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    return tab;
  }

  async function counts() {
    const text = await (await fetch(server.http("/metrics"))).text();
    const value = (name) => Number(new RegExp(`^stillcast_${name} (\\d+)$`, "m").exec(text)[1]);
    return { units: value("units_decoded_total"), runs: value("decode_runs_total"), pictures: value("pictures_encoded_total"), keyframes: value("keyframe_requests_total") };
  }

  /** The page as its reader leaves it for another tab. */
  async function hide(tab, hidden) {
    await tab.page.evaluate((value) => {
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => (value ? "hidden" : "visible") });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  }

  test("the server's bare address shows the demo with a live still", async () => {
    const tab = await open();
    assert.equal(await tab.page.title(), "Live streams · Stillcast");
    await until("a still", () => picture(tab, "test").isVisible());
    const first = await picture(tab, "test").getAttribute("src");
    await until("another still", async () => (await picture(tab, "test").getAttribute("src")) !== first);
    const facts = await card(tab, "test").locator("dd").allTextContents();
    assert.deepEqual(facts.slice(0, 3), ["Test card", "640 × 360", "H.264"]);
    await until("the rate", async () => /^\d+(\.\d)? fps, \d+(\.\d)? [kM]bit\/s$/.test(await card(tab, "test").locator(".rate").textContent()));
    assert.match(await card(tab, "test").locator(".lived").textContent(), /^\d+ (s|min)$/);
    assert.equal(await tab.page.textContent("#summary"), "1 live stream");
    assert.deepEqual([...tab.hosts], ["127.0.0.1"], "nothing comes from elsewhere");
    await tab.close();
  });

  test("nothing is decoded or asked of publishers before, after, or while nobody looks", async () => {
    const publisher = await publish("watched");
    await settled(1000);
    const before = await counts();
    await settled(SEVERAL_STILLS_MS);
    assert.deepEqual(await counts(), before, "before the page was opened");

    const tab = await open();
    await until("both stills", async () => (await picture(tab, "watched").isVisible()) && (await picture(tab, "test").isVisible()));
    const looking = await counts();
    assert.ok(looking.units > before.units && looking.pictures > before.pictures);
    assert.equal(looking.units - before.units, looking.runs - before.runs, "a still costs one unit");
    await until("stills go on", async () => (await counts()).units >= looking.units + 2);

    const still = async (what) => {
      await settled(1000); // What is under way ends.
      const then = await counts();
      await settled(SEVERAL_STILLS_MS);
      assert.deepEqual(await counts(), then, what);
    };
    await hide(tab, true);
    await still("while the page is hidden");
    await hide(tab, false);
    const back = await counts();
    await until("stills go on when it is shown again", async () => (await counts()).units > back.units);
    await tab.click("#pause");
    await still("while it is paused");
    await tab.click("#pause");
    await until("stills go on after the pause", async () => (await counts()).units > back.units);
    await tab.close();
    await still("after it was closed");
    await publisher.close();
  });

  test("only cards in sight are fetched, and fifty streams can be handled", async () => {
    const asked = [];
    const line = (number) => ({
      name: `cam ${number}`, epoch: 1000 + number, protocol: number % 2 ? "rtsp_pull" : "rtmp", isLive: true, hasVideo: true, hasAudio: number % 2 === 0,
      width: 1280, height: 720, videoCodec: "H264", audioCodec: "mpeg4-generic", videoMuted: false, audioMuted: false, createDate: 0,
      bitrate: 2e6 + number, fps: 25, viewers: number,
    });
    const pixel = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
    const tab = await open({
      context: { viewport: { width: 1280, height: 800 } },
      prepare: async (page) => {
        await page.route("**/rest-api/stream/list", (route) => route.fulfill({ json: { now: 7.5e6, streams: Array.from({ length: 50 }, (_, n) => line(n)) } }));
        await page.route("**/stills/*", (route) => {
          asked.push(decodeURIComponent(new URL(route.request().url()).pathname).slice("/stills/".length, -".png".length));
          return route.fulfill({ body: pixel, contentType: "image/png", headers: { ETag: '"x"', "X-Frame-Age-Ms": "20" } });
        });
      },
    });
    await until("fifty cards", async () => (await tab.page.locator("#streams > li").count()) === 50);
    assert.equal(await tab.page.textContent("#summary"), "50 live streams");
    await until("a still of each card in sight, again", () => asked.length > 15);
    const inSight = new Set(asked);
    assert.ok(inSight.size >= 3 && inSight.size <= 12, `in sight of 1280x800 were ${[...inSight]}`);
    assert.ok(!inSight.has("cam 0"), "the oldest is far below");
    await tab.page.locator("#streams > li").last().scrollIntoViewIfNeeded();
    await until("a still of the oldest", () => asked.includes("cam 0"));
    const from = asked.length;
    await settled(2500);
    assert.ok(!asked.slice(from).includes("cam 49"), "the newest is out of sight now");
    assert.equal(await card(tab, "cam 0").locator(".lived").textContent(), "2 h 5 min");
    assert.equal(await card(tab, "cam 1").locator(".codecs").textContent(), "H.264");

    await tab.page.fill("#find", "RTSP cam pulled");
    await until("what is looked for", async () => (await tab.page.textContent("#summary")) === "25 of 50 live streams");
    await tab.page.selectOption("#order", "viewers");
    assert.equal(await tab.page.locator("#streams h2").first().textContent(), "cam 49");
    await tab.page.selectOption("#order", "oldest");
    assert.equal(await tab.page.locator("#streams h2").first().textContent(), "cam 1");
    await tab.close();
  });

  test("an unchanged still costs neither bytes nor a decode", async () => {
    // The card's keyframes come every two seconds, as often as the page asks: here they are rare.
    const own = await startServer({ settings: { demo_size: "320x180", demo_keyframe_interval: 3600, snapshot_watch_ms: 0 }, arguments: ["--demo"] });
    try {
      const address = own.http("/stills/test.png?w=160");
      const first = await until("the first keyframe", async () => {
        const answer = await fetch(address);
        return answer.status === 200 && answer;
      });
      const tag = first.headers.get("ETag");
      const again = await fetch(address, { headers: { "If-None-Match": tag } });
      assert.deepEqual([again.status, (await again.arrayBuffer()).byteLength, again.headers.get("ETag")], [304, 0, tag]);
      const text = await (await fetch(own.http("/metrics"))).text();
      assert.match(text, /^stillcast_units_decoded_total 1$/m);
    } finally {
      await own.close();
    }
  });

  test("no name can harm the page, and each still is that stream's", async () => {
    const publishers = [];
    for (const name of NAMES) publishers.push(await publish(name));
    // When their publishers leave, the page may ask once more.
    const tab = await open({ context: { viewport: { width: 1280, height: 1600 } }, expected: [/404/] });
    tab.page.on("dialog", (dialog) => assert.fail(`a name ran as a script: ${dialog.message()}`));
    for (const name of NAMES) {
      await until(`a still of ${name}`, () => picture(tab, name).isVisible());
      for (const [link, parameter] of [[".watch", "streamName"], [".snapshot", "stream"]]) {
        const href = await card(tab, name).locator(link).getAttribute("href");
        assert.equal(new URL(href, server.http("/")).searchParams.get(parameter), name);
      }
      const address = await card(tab, name).locator(".screen").getAttribute("href");
      const whole = await fetch(new URL(address, server.http("/")));
      assert.equal(whole.status, 200, name);
      const still = await fetch(new URL(address.replace("/snapshots/", "/stills/"), server.http("/")));
      assert.equal(still.status, 200, name);
    }
    assert.equal(await tab.page.locator("#streams img[src='x']").count(), 0);
    for (const publisher of publishers) await publisher.close();
    await until("only the demo is left", async () => (await tab.page.locator("#streams > li").count()) === 1);
    await tab.close();
  });

  test("streams without a picture say why", async () => {
    const tab = await open({
      expected: [/500|status of/],
      prepare: async (page) => {
        const base = { epoch: 1, protocol: "rtmp", isLive: true, hasVideo: true, hasAudio: true, width: 0, height: 0, videoCodec: "VP8", audioCodec: "opus", createDate: 0, bitrate: 0, fps: 0, viewers: 0 };
        const streams = [
          { ...base, name: "sound", epoch: 1, hasVideo: false },
          { ...base, name: "soon", epoch: 2, isLive: false },
          { ...base, name: "strange", epoch: 3, audioMuted: true },
          { ...base, name: "vod://film.mp4#1f", epoch: 4, protocol: "vod" },
        ];
        await page.route("**/rest-api/stream/list", (route) => route.fulfill({ json: { now: Date.now(), streams } }));
        await page.route("**/stills/*", (route) => route.fulfill({ status: 500, json: { message: "Snapshot taking error: VP8 cannot be decoded" } }));
      },
    });
    const why = (name) => card(tab, name).locator(".why").textContent();
    await until("the reason", async () => (await why("strange")) === "No picture: VP8 cannot be decoded");
    assert.ok(await card(tab, "sound").locator(".watch").isVisible());
    assert.equal(await card(tab, "vod://film.mp4#1f").locator(".watch").isVisible(), false, "it is somebody's own");
    assert.equal(await why("sound"), "Sound only: there is no picture");
    assert.equal(await why("soon"), "Connecting…");
    assert.equal(await card(tab, "strange").locator(".muted").textContent(), "Microphone off");
    await tab.close();
  });

  test("nothing live, and a server that went away, are told in words", async (context) => {
    const own = await startServer();
    context.after(() => own.close());
    const tab = await openTab(browser, own.http("/"), { expected: [/ERR_CONNECTION|Failed to load/] });
    await until("the empty list", () => tab.page.locator("#empty").isVisible());
    assert.equal(await tab.page.locator("#tools").isVisible(), false);
    await own.kill();
    await until("the trouble", () => tab.page.locator("#trouble").isVisible());
    assert.match(await tab.page.textContent("#trouble"), /No answer from the server/);
    await own.start();
    await until("the trouble is over", async () => !(await tab.page.locator("#trouble").isVisible()));
    await tab.close();
  });

  test("a server with a password asks for it", async (context) => {
    const own = await startServer({
      settings: { disable_rest_auth: false, rest_auth_user: "me", rest_auth_password: "secret", demo_size: "320x180" }, arguments: ["--demo"],
    });
    context.after(() => own.close());
    const wrong = await openTab(browser, own.http("/"), { context: { httpCredentials: { username: "me", password: "Secret" } }, expected: [/401/] });
    await until("the trouble", async () => /user name and a password/.test(await wrong.page.textContent("#trouble")));
    await wrong.close();
    const tab = await openTab(browser, own.http("/"), { context: { httpCredentials: { username: "me", password: "secret" } }, expected: [/401/] });
    await until("a still", () => picture(tab, "test").isVisible());
    await tab.close();
  });

  test("keyboard, screen readers and a phone's width", async () => {
    const tab = await open({ context: { viewport: { width: 360, height: 740 } } });
    await until("a card", () => card(tab, "test").isVisible());
    assert.equal(await tab.page.getByRole("article", { name: "test" }).count(), 1);
    const reached = [];
    for (let presses = 0; presses < 11; presses += 1) {
      await tab.page.keyboard.press("Tab");
      reached.push(await tab.page.evaluate(() => document.activeElement.getAttribute("aria-label") || document.activeElement.textContent.trim() || document.activeElement.id));
    }
    assert.deepEqual(reached.slice(0, 5), ["Publish a camera", "Two-way", "Player", "Record", "find"]);
    for (const wanted of ["Pause pictures", "Newest picture of test, full size", "Watch test", "Snapshot of test"]) assert.ok(reached.includes(wanted), `${wanted} is not reached: ${reached}`);
    // The list is renewed while the reader is on a card: the focus stays.
    await card(tab, "test").locator(".watch").focus();
    await settled(3500);
    assert.equal(await tab.page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Watch test");
    const { inner, content } = await tab.page.evaluate(() => ({ inner: innerWidth, content: document.documentElement.scrollWidth }));
    assert.ok(content <= inner, `the page is ${content} wide on a screen of ${inner}`);
    await tab.close();
  });
});
