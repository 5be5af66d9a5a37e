// stillcast.js: the manuals' code samples run on it as they are printed, and pages of the vendor's run on it unchanged.
import assert from "node:assert/strict";
import { relative } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { assertCamera, decodeDataUrl } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { GENERATIONS, pagePath } from "./support/websdk.mjs";

/** Served as a whole: the samples, and the client packages below `node_modules`. */
const HERE = fileURLToPath(new URL(".", import.meta.url));

describe("client library", { skip: noBrowser, timeout: 300000 }, () => {
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    server = await startServer({ settings: { web_dir: HERE } });
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  /** A page with the manuals' samples. */
  const samples = () => openTab(browser, server.http("/client2/samples/page.html"));

  async function publish(tab) {
    await tab.page.evaluate((url) => window.connect(url), server.ws());
    await tab.text("#status", "PUBLISHING");
    await until("a video frame is sent", async () => (await tab.sending())?.frames > 0);
  }

  for (const style of ["newStyle", "oldStyle"]) {
    test(`the manuals' samples run as printed: ${style}`, async () => {
      const tab = await samples();
      await publish(tab);
      const streams = () => tab.page.evaluate(() => Flashphoner.getSessions()[0].getStreams().length);
      assert.equal(await streams(), 1);
      for (let time = 0; time < 3; time += 1) {
        await tab.page.evaluate((snapshot) => window[snapshot]("sample"), style);
        await tab.text("#snapshotStatus", "SNAPSHOT_COMPLETE");
        assertCamera(decodeDataUrl(await tab.page.getAttribute("#dynImg", "src")));
      }
      await until("snapshot streams are forgotten", async () => (await streams()) === 1);
      await tab.page.evaluate((snapshot) => window[snapshot]("nobody"), style);
      await tab.text("#snapshotStatus", "FAILED");
      await until("failed ones too", async () => (await streams()) === 1);
      await tab.click("#publishBtn");
      await tab.text("#status", "UNPUBLISHED");
      assert.equal(await streams(), 0);
      await tab.close();
    });
  }

  for (const { version, folder } of GENERATIONS) {
    test(`the page of package ${version} runs on it`, async () => {
      const path = pagePath("stream-snapshot", `/client2/${relative(HERE, folder)}`);
      const tab = await openTab(browser, server.http(path), {
        ports: { ws: server.ports.ws, http: server.ports.http },
        prepare: (page) => page.route("**/flashphoner.js", async (route) => route.fulfill({ response: await route.fetch({ url: server.http("/client2/stillcast.js") }) })),
      });
      assert.equal(await tab.page.evaluate(() => typeof Stillcast), "object");
      await tab.page.fill("#url", server.ws("/unchanged"));
      await tab.click("#publishBtn");
      await tab.text("#status", "PUBLISHING");
      await until("a video frame is sent", async () => (await tab.sending())?.frames > 0);
      await tab.click("#snapshotBtn");
      await tab.page.waitForFunction(() => document.querySelector("#dynImg").naturalWidth > 0, null, { timeout: 10000 });
      assertCamera(decodeDataUrl(await tab.page.getAttribute("#dynImg", "src")));
      await tab.click("#publishBtn");
      await tab.text("#status", "UNPUBLISHED");
      await tab.close();
    });
  }

  test("availability, and the limits of what a session and a stream can be asked", async () => {
    const tab = await samples();
    await publish(tab);
    const answers = await tab.page.evaluate(async () => {
      const session = Flashphoner.getSessions()[0];
      const ask = (name) => new Promise((resolve) => {
        session.createStream({ name })
          .on(STREAM_STATUS.AVAILABLE, () => resolve("yes"))
          .on(STREAM_STATUS.UNAVAILABLE, (stream) => resolve(stream.getInfo()))
          .available();
      });
      const message = (action) => {
        try {
          action();
        } catch (error) {
          return error.message;
        }
        return "";
      };
      const published = session.getStreams()[0];
      return {
        yes: await ask("sample"),
        no: await ask("nobody"),
        twice: message(() => published.publish()),
        played: message(() => published.play()),
        nameless: message(() => session.createStream({})),
        early: message(() => Flashphoner.createSession({ urlServer: session.getServerUrl() }).createStream({ name: "x" })),
      };
    });
    assert.equal(answers.yes, "yes");
    assert.equal(answers.no, "Stream not found");
    assert.match(answers.twice, /already used/);
    assert.match(answers.played, /already used/);
    assert.match(answers.nameless, /name/);
    assert.match(answers.early, /not established/);
    await tab.close();
  });

  test("a session that is closed ends its streams first, then itself", async () => {
    const tab = await samples();
    await publish(tab);
    const seen = await tab.page.evaluate(() => new Promise((resolve) => {
      const session = Flashphoner.getSessions()[0];
      const seen = [];
      session.getStreams()[0].on(STREAM_STATUS.FAILED, (stream) => seen.push(stream.status()));
      session.on(SESSION_STATUS.DISCONNECTED, () => {
        seen.push(session.status(), Flashphoner.getSessions().length);
        resolve(seen);
      });
      session.disconnect();
    }));
    assert.deepEqual(seen, ["FAILED", "DISCONNECTED", 0]);
    await until("the server let the name go", async () => (await server.rest("/stream/find", { name: "sample" })).status === 404);
    await tab.close();
  });
});
