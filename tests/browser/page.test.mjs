// Our own demo page and the client library below it.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { assertCamera, decode, decodeDataUrl } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";

const PAGE = "/client2/examples/demo/streaming/stream-snapshot/stream-snapshot.html";

describe("demo page", { skip: noBrowser, timeout: 300000 }, () => {
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    server = await startServer();
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  const open = (options = {}) => openTab(options.browser || browser, (options.address || server.http(PAGE)) + (options.query || ""), {
    ports: { ws: server.ports.ws, wss: server.ports.wss, https: server.ports.https }, ...options,
  });

  async function publish(tab, name) {
    if (name) await tab.page.fill("#streamName", name);
    await tab.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    await until("a video frame is sent", async () => (await tab.sending())?.frames > 0);
    return tab.page.inputValue("#streamName");
  }

  async function snapshot(tab) {
    await tab.click("#snapshotBtn");
    await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"]);
    assert.equal(await tab.page.textContent("#snapshotInfo"), "");
    return decodeDataUrl(await tab.page.getAttribute("#dynImg", "src"));
  }

  test("publish, take a picture, read its facts, download it, stop", async () => {
    const tab = await open();
    const name = await publish(tab);
    const picture = await snapshot(tab);
    assertCamera(picture);
    assert.equal(await tab.page.textContent("#pictureSize"), `${picture.width} × ${picture.height}`);
    assert.match(await tab.page.textContent("#pictureBytes"), /^\d+(\.\d+)? [KM]iB$/);
    assert.match(await tab.page.textContent("#pictureTime"), /^\d\d:\d\d:\d\d\.\d\d\d$/);
    assert.match(await tab.page.textContent("#pictureAge"), /^\d+ (ms|s)$/);
    const captured = new Date(await tab.page.getAttribute("#pictureTime", "datetime"));
    assert.ok(Math.abs(Date.now() - captured) < 10000, `captured ${captured.toISOString()}`);
    await until("the age grows", async () => (await tab.page.textContent("#pictureAge")) === "3 s", 8000);

    const [download] = await Promise.all([tab.page.waitForEvent("download"), tab.click("#download")]);
    assert.match(download.suggestedFilename(), new RegExp(`^${name}-.*\\.png$`));
    assert.deepEqual(decode(await readFile(await download.path())).data, picture.data);

    const address = await tab.page.getAttribute("#pictureLink", "href");
    const got = await fetch(new URL(address, server.http("/")));
    assert.equal(got.status, 200);
    assertCamera(decode(Buffer.from(await got.arrayBuffer())), "by the link");

    await tab.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    assert.equal(await tab.page.locator("#localVideo video").count(), 0, "the camera is let go");
    assert.deepEqual([...tab.hosts], ["127.0.0.1"], "nothing comes from elsewhere");
    await tab.close();
  });

  test("a picture of somebody else's stream, without publishing", async () => {
    const publisher = await open();
    const name = await publish(publisher);
    const reader = await open({ query: `?stream=${name}` });
    assertCamera(await snapshot(reader));
    assert.equal(await reader.page.textContent("#status"), "ESTABLISHED");
    await reader.close();
    await publisher.close();
  });

  test("the page is served at each address that the manuals print", async () => {
    for (const address of [server.http(PAGE), server.http(PAGE.replace("client2", "client")), server.https(PAGE), `https://127.0.0.1:${server.ports.legacy_https}${PAGE}`]) {
      const tab = await open({ address });
      assert.equal(await tab.page.title(), "Stream Snapshot · Stillcast");
      await tab.close();
    }
  });

  test("the ports are found without being told", async () => {
    const tab = await openTab(browser, server.http(PAGE));
    await until("the server's own port", async () => (await tab.page.inputValue("#url")) === server.ws());
    await tab.close();
  });

  test("over https", async () => {
    const tab = await open({ address: server.https(PAGE) });
    assert.equal(await tab.page.inputValue("#url"), `wss://127.0.0.1:${server.ports.wss}`);
    await publish(tab);
    assertCamera(await snapshot(tab));
    await tab.close();
  });

  test("failures are told in words", async () => {
    const first = await open();
    const name = await publish(first);
    const second = await open();
    await second.page.fill("#streamName", name);
    await second.click("#publishBtn");
    await second.text("#status", "FAILED");
    assert.equal(await second.page.textContent("#info"), `Somebody already publishes “${name}” here. Choose another name.`);
    assert.equal(await second.page.textContent("#publishBtn"), "Start");

    await second.page.fill("#snapshotName", "nobody");
    await second.click("#snapshotBtn");
    await second.text("#snapshotStatus", "FAILED");
    assert.equal(await second.page.textContent("#snapshotInfo"), "Nobody publishes “nobody” on this server.");
    assert.equal(await second.page.isEnabled("#snapshotBtn"), true);
    await second.close();
    await first.text("#status", "PUBLISHING");
    await first.close();
  });

  test("a refused camera is told in words", async (context) => {
    const denying = await launch({ deny: true });
    context.after(() => denying.close());
    const tab = await open({ browser: denying });
    await tab.click("#publishBtn");
    await tab.text("#status", "FAILED");
    assert.match(await tab.page.textContent("#info"), /may not use the camera/);
    assert.equal(await tab.page.textContent("#publishBtn"), "Start");
    await tab.close();
  });

  test("stopping at once never hangs", async () => {
    const tab = await open();
    await tab.click("#publishBtn");
    await tab.page.waitForFunction(() => document.querySelector("#publishBtn").textContent === "Stop");
    await tab.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    const name = await publish(tab);
    await tab.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    assert.equal((await server.rest("/stream/find", { name })).status, 404);
    await tab.close();
  });

  test("keyboard alone is enough, and a phone's width too", async () => {
    const tab = await open({ context: { viewport: { width: 360, height: 740 } } });
    const reach = async (id) => {
      for (let presses = 0; presses < 12; presses += 1) {
        await tab.page.keyboard.press("Tab");
        if (await tab.page.evaluate((wanted) => document.activeElement.id === wanted, id)) return;
      }
      assert.fail(`#${id} is not reached by Tab`);
    };
    await reach("streamName");
    await tab.page.keyboard.press("Enter");
    await tab.text("#status", "PUBLISHING");
    await reach("snapshotBtn");
    await until("a picture", async () => {
      await tab.page.keyboard.press("Enter");
      return (await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"])) === "SNAPSHOT_COMPLETE";
    });
    await reach("download");
    const { inner, content } = await tab.page.evaluate(() => ({ inner: innerWidth, content: document.documentElement.scrollWidth }));
    assert.ok(content <= inner, `the page is ${content} wide on a screen of ${inner}`);
    await tab.close();
  });

  test("a lost server is told, and a new start works", async (context) => {
    const own = await startServer();
    context.after(() => own.close());
    const tab = await openTab(browser, own.http(PAGE), { ports: { ws: own.ports.ws }, expected: [/WebSocket/] });
    await publish(tab);
    await own.kill();
    await tab.text("#status", ["DISCONNECTED", "FAILED"]);
    assert.match(await tab.page.textContent("#info"), /was lost/);
    await tab.click("#snapshotBtn");
    await tab.text("#snapshotStatus", "FAILED");
    assert.match(await tab.page.textContent("#snapshotInfo"), /Is the server running/);
    await own.start();
    await publish(tab);
    assertCamera(await snapshot(tab));
    await tab.close();
  });
});
