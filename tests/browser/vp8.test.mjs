// Publishers of VP8: Firefox, which has no H.264 here, and Chromium where VP8 is preferred.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { launchFirefox, noFirefox, openFirefoxTab, ownAddress } from "./support/firefox.mjs";
import { assertCamera, decode, decodeDataUrl, evenColour } from "./support/picture.mjs";
import { probe } from "./support/media.mjs";
import { startServer, until } from "./support/server.mjs";
import { hearing, isShown, receiving, shown } from "./support/watch.mjs";

const PAGE = "/client2/examples/demo/streaming/stream-snapshot/stream-snapshot.html";

describe("VP8 from Firefox", { skip: noFirefox, timeout: 300000 }, () => {
  let server;
  let browser;
  before(async () => {
    server = await startServer({ settings: { ip: ownAddress, ip_local: "0.0.0.0" } });
    browser = await launchFirefox();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
  });

  test("publish, take pictures of the fake camera, stop", async () => {
    const tab = await openFirefoxTab(browser, server.http(PAGE), { ws: server.ports.ws, wss: server.ports.wss, https: server.ports.https });
    await tab.fill("#streamName", "fox");
    await tab.page.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    await until("thirty frames are sent", async () => (await tab.connection()).frames > 30);

    const connection = await tab.connection();
    assert.equal(connection.codec, "video/VP8");
    assert.equal(connection.srtp, "SRTP_AEAD_AES_128_GCM");
    assert.ok(!/H264/.test(connection.offer), "this Firefox has no H.264, or the test proves less than it says");
    assert.match(connection.offer, /a=candidate:.*\.local /, "its addresses are hidden behind names");
    const { body: [stream] } = await server.rest("/stream/find", { name: "fox" });
    assert.equal(stream.videoCodec, "VP8");

    // The fake camera shows one colour that changes with each frame; the page keeps the colours of its own preview.
    await tab.page.evaluate(() => {
      const video = document.querySelector("#localVideo video");
      const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      window.previewColours = [];
      const note = () => {
        context.drawImage(video, 0, video.videoHeight / 2, 8, 8, 0, 0, 8, 8);
        window.previewColours.push([...context.getImageData(4, 4, 1, 1).data.slice(0, 3)]);
        requestAnimationFrame(note);
      };
      note();
    });
    const seen = [];
    for (let count = 0; count < 3; count += 1) {
      await new Promise((resolve) => { setTimeout(resolve, 1000); });
      const { status, bytes } = await server.picture("fox");
      assert.equal(status, 200);
      const picture = decode(bytes);
      assert.deepEqual([picture.width, picture.height], [connection.width, connection.height]);
      // Its clock is written into the uppermost rows.
      const colour = evenColour(picture, 0.1);
      const shown = await tab.page.evaluate(() => window.previewColours);
      const nearest = Math.min(...shown.map((own) => Math.max(...own.map((value, channel) => Math.abs(value - colour[channel])))));
      assert.ok(nearest <= 8, `no preview was like ${colour}, the nearest differs by ${nearest}`);
      seen.push(colour.join());
    }
    assert.equal(new Set(seen).size, 3, `each picture is a new one: ${seen.join(" ")}`);

    await tab.page.click("#snapshotBtn");
    assert.equal(await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"]), "SNAPSHOT_COMPLETE");
    evenColour(decodeDataUrl(await tab.page.$eval("#dynImg", (image) => image.src)), 0.1);

    await tab.page.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    await tab.close();
  });
});

describe("VP8 from Firefox to Chromium", { skip: noFirefox || noBrowser, timeout: 300000 }, () => {
  const RECORDING = "/client2/examples/demo/streaming/stream_recording/recording.html";
  const PLAYER = "/client2/examples/demo/streaming/player/player.html";
  const VIDEO = "#remoteVideo video";
  let server;
  let firefox;
  let chromium;
  before(async () => {
    server = await startServer({ settings: { ip: ownAddress, ip_local: "0.0.0.0" } });
    firefox = await launchFirefox();
    chromium = await launch();
  });
  after(async () => {
    await chromium?.close();
    await firefox?.close();
    await server?.close();
  });

  test("one records itself, the other watches, and then watches the recording", async () => {
    const publisher = await openFirefoxTab(firefox, server.http(RECORDING), { ws: server.ports.ws, wss: server.ports.wss, https: server.ports.https });
    await publisher.fill("#streamName", "fox");
    await publisher.page.click("#publishBtn");
    await publisher.text("#status", "PUBLISHING");
    const tab = await openTab(chromium, `${server.http(PLAYER)}?streamName=fox&autoplay=true`, { ports: { ws: server.ports.ws } });
    await tab.text("#status", "PLAYING");
    await until("pictures", async () => (await receiving(tab))?.frames > 60);
    const seen = await receiving(tab);
    assert.equal(seen.codec, "video/VP8");
    // The fake camera shows one colour, another one with each frame; its clock is written into the uppermost rows.
    const colours = new Set();
    await until("three colours", async () => {
      colours.add(evenColour(await shown(tab, VIDEO), 0.1).join());
      return colours.size >= 3;
    });
    assert.equal(await tab.page.textContent("#codecs"), "VP8, Opus");
    await until("its sound", async () => (await hearing(tab)).energy > 0);

    await publisher.page.click("#publishBtn");
    await publisher.text("#status", "UNPUBLISHED");
    await tab.text("#status", "FAILED");
    const name = await publisher.page.$eval("#fileName", (element) => element.textContent);
    assert.match(name, /\.webm$/);
    // Firefox plays what it sent.
    await until("its own player knows the file", () => publisher.page.$eval("#recVideo", (video) => video.readyState >= 1 && video.videoWidth > 0));
    await publisher.close();
    await tab.close();

    const reader = await openTab(chromium, server.http("/"));
    await reader.page.getByRole("button", { name: `Watch ${name}` }).click();
    await until("a picture", () => isShown(reader, "#watch video"));
    evenColour(await shown(reader, "#watch video"), 0.1);
    await until("its end", () => reader.page.evaluate(() => document.querySelector("#watch video").ended), 30000);
    const file = await probe(join(server.folder, "data", "records", name));
    assert.deepEqual([file.video.codec_name, file.audio.codec_name], ["vp8", "opus"]);
    const duration = await reader.page.evaluate(() => document.querySelector("#watch video").duration);
    assert.ok(Math.abs(duration - file.seconds) < 0.1, `${duration} s, ffprobe says ${file.seconds} s`);
    await reader.close();
  });
});

describe("VP8 from Chromium", { skip: noBrowser, timeout: 300000 }, () => {
  let server;
  let camera;
  let browser;
  before(async () => {
    camera = await makeCamera();
    server = await startServer({ settings: { codecs: "opus,vp8,h264" } });
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  test("the order of codecs makes it publish VP8, and pictures are right", async () => {
    const tab = await openTab(browser, server.http(PAGE), { ports: { ws: server.ports.ws, wss: server.ports.wss, https: server.ports.https } });
    await tab.page.fill("#streamName", "chrome");
    await tab.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    await until("a video frame is sent", async () => (await tab.sending())?.frames > 10);
    const { body: [stream] } = await server.rest("/stream/find", { name: "chrome" });
    assert.equal(stream.videoCodec, "VP8");
    for (let count = 0; count < 3; count += 1) {
      assertCamera(decode((await server.picture("chrome")).bytes), `picture ${count}`);
    }
    await tab.click("#snapshotBtn");
    await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"]);
    assertCamera(decodeDataUrl(await tab.page.getAttribute("#dynImg", "src")));
    await tab.close();
  });
});
