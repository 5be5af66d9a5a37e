// The unmodified stream-snapshot pages of two client generations: the newer listens to the event, the older to the status.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { assertCamera, blockPosition, colourError, decode, decodeDataUrl } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { GENERATIONS, pagePath } from "./support/websdk.mjs";

const ERROR_KEYS = ["exception", "reason", "path", "error", "message", "timestamp", "status"];

for (const { version, folder } of GENERATIONS) describe(`unmodified client package ${version}`, { skip: noBrowser, timeout: 300000 }, () => {
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    server = await startServer({ settings: { web_dir: folder } });
    browser = await launch({ camera: camera.path });
  });

  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  const open = (page) => openTab(browser, server.http(pagePath(page)), { ports: { ws: server.ports.ws, http: server.ports.http } });

  /** Opens the snapshot page and publishes; the stream's name is the last part of the address field. */
  async function publish() {
    const tab = await open("stream-snapshot");
    const stream = (await tab.page.inputValue("#url")).split("/")[3];
    // The older package knows no other port than the usual one.
    await tab.page.fill("#url", server.ws(`/${stream}`));
    await tab.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    await until("a video frame is sent", async () => (await tab.sending())?.frames > 0);
    return { tab, stream };
  }

  /** Presses the button and waits for another picture than the one shown. */
  async function snapshotByButton(tab) {
    const shown = await tab.page.getAttribute("#dynImg", "src");
    await tab.click("#snapshotBtn");
    await tab.page.waitForFunction((old) => {
      const image = document.querySelector("#dynImg");
      return image.src && image.getAttribute("src") !== old && image.complete && image.naturalWidth > 0;
    }, shown, { timeout: 10000 });
    await tab.text("#snapshotStatus", "");
    return decodeDataUrl(await tab.page.getAttribute("#dynImg", "src"));
  }

  test("publish, snapshots by button, REST and GET, stop, publish again", async () => {
    const { tab, stream } = await publish();
    const sizes = [(await tab.sending()).width];
    const pictures = [await snapshotByButton(tab)];
    assertCamera(pictures[0], "by button");
    sizes.push((await tab.sending()).width);
    assert.ok(sizes.includes(pictures[0].width), `the picture is ${pictures[0].width} wide, sent was ${sizes}`);
    assert.equal(await tab.page.evaluate(() => document.querySelector("#dynImg").naturalWidth), pictures[0].width);

    const rest = await server.rest("/stream/snapshot", { streamName: stream });
    assert.equal(rest.status, 200);
    assert.deepEqual(Object.keys(rest.body), ["data"]);
    assertCamera(decode(Buffer.from(rest.body.data, "base64")), "by REST");

    const got = await server.picture(stream);
    assert.equal(got.status, 200);
    assert.equal(got.headers.get("content-type"), "image/png");
    assert.ok(Number(got.headers.get("x-frame-age-ms")) < 3000, `age ${got.headers.get("x-frame-age-ms")} ms`);
    assertCamera(decode(got.bytes), "by GET");

    // Coding settles in a second or two; the wrong colour matrix or range would stay 14 off.
    await until("true colours", async () => colourError(decode((await server.picture(stream)).bytes)) <= 6);

    for (let number = 1; number <= 5; number += 1) {
      const picture = await snapshotByButton(tab);
      assertCamera(picture, `picture ${number}`);
      pictures.push(picture);
    }
    const places = new Set(pictures.map((picture) => Math.round(blockPosition(picture) * 32)));
    assert.ok(places.size >= 3, `the block has moved between pictures: ${[...places]}`);

    await tab.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    const gone = await server.rest("/stream/snapshot", { streamName: stream });
    assert.equal(gone.status, 404);
    assert.deepEqual(Object.keys(gone.body), ERROR_KEYS);
    assert.equal((await server.picture(stream)).status, 404);

    await tab.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    assertCamera(await snapshotByButton(tab), "after publishing again");
    await tab.close();
  });

  test("a taken name is told, and the first publisher is left alone", async () => {
    const first = await publish();
    const second = await open("stream-snapshot");
    await second.page.fill("#url", server.ws(`/${first.stream}`));
    await second.click("#publishBtn");
    await second.text("#status", "FAILED");
    assert.equal(await second.page.textContent("#info"), "Stream name is already in use");
    await second.close();

    const other = await open("two_way_streaming");
    await other.page.fill("#urlServer", server.ws());
    await other.click("#connectBtn");
    await other.text("#connectStatus", "ESTABLISHED");
    await other.page.fill("#publishStream", first.stream);
    await other.click("#publishBtn");
    await other.text("#publishStatus", "FAILED");
    assert.match(await other.page.textContent("#publishInfo"), /already has a publish stream with the same name/);
    await other.page.fill("#playStream", first.stream);
    await other.click("#availableBtn");
    await other.text("#availableStatus", "AVAILABLE");
    await other.page.fill("#playStream", "nobody");
    await other.click("#availableBtn");
    await other.text("#availableStatus", "UNAVAILABLE");
    assert.equal(await other.page.textContent("#availableInfo"), "Stream not found");
    await other.close();

    await first.tab.text("#status", "PUBLISHING");
    assertCamera(await snapshotByButton(first.tab));
    await first.tab.close();
  });

  test("an unknown name fails in both styles, the event before the status", async () => {
    const { tab } = await publish();
    const seen = await tab.page.evaluate(() => new Promise((resolve) => {
      const { STREAM_STATUS, STREAM_EVENT } = Flashphoner.constants;
      const seen = [];
      Flashphoner.getSessions()[0].createStream({ name: "nobody" })
        .on(STREAM_EVENT, (event) => seen.push([event.type, event.payload.info]))
        .on(STREAM_STATUS.FAILED, (stream) => {
          seen.push([stream.status(), stream.getInfo()]);
          resolve(seen);
        })
        .snapshot();
    }));
    assert.deepEqual(seen, [["snapshotFailed", "Stream not found"], ["FAILED", "Stream not found"]]);
    await tab.text("#status", "PUBLISHING");
    await tab.close();
  });

  test("a snapshot asked of the publishing stream object leaves it publishing", async () => {
    const { tab } = await publish();
    const seen = await tab.page.evaluate(() => new Promise((resolve) => {
      const { STREAM_STATUS, STREAM_EVENT } = Flashphoner.constants;
      const stream = Flashphoner.getSessions()[0].getStreams()[0];
      const seen = {};
      const note = (key, value) => {
        seen[key] = value;
        if (seen.event && seen.status) resolve(seen);
      };
      stream.on(STREAM_EVENT, (event) => note("event", event.payload.snapshot || event.type))
        .on(STREAM_STATUS.SNAPSHOT_COMPLETE, () => note("status", stream.getInfo()))
        .on(STREAM_STATUS.FAILED, () => resolve({ failed: stream.getInfo() }))
        .snapshot();
    }));
    assert.equal(seen.failed, undefined);
    assert.equal(seen.event, seen.status);
    assertCamera(decode(Buffer.from(seen.event, "base64")));
    await tab.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    await tab.close();
  });
});
