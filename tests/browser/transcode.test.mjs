// Pictures that are made anew for a viewer, as the unmodified player page shows them in a real browser.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { startServer, until } from "./support/server.mjs";
import { GENERATIONS, pagePath } from "./support/websdk.mjs";

/** A white bar that goes to the right for ten seconds, in a stream whose B-frames other B-frames refer to. */
const FILM = ["-f", "lavfi", "-i", "color=black:size=640x360:rate=30:duration=10[ground];color=white:size=20x360:rate=30[bar];[ground][bar]overlay=x=60*t:shortest=1",
  "-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-x264-params", "b-pyramid=normal:b-adapt=0:keyint=60:scenecut=0", "-pix_fmt", "yuv420p"];

describe("pictures made anew", { skip: noBrowser, timeout: 300000 }, () => {
  let folder;
  let server;
  let browser;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "stillcast-media-"));
    execFileSync("ffmpeg", ["-v", "error", ...FILM, join(folder, "film.mp4")]);
    const settings = { web_dir: GENERATIONS[0].folder, media_dir: folder, transcoders_max: 4 };
    server = await startServer({ settings, arguments: ["--demo"] });
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    if (folder) await rm(folder, { recursive: true });
  });

  async function play(name, query = "") {
    const tab = await openTab(browser, server.http(pagePath("player")) + query,
      { ports: { ws: server.ports.ws, http: server.ports.http }, expected: [/images\/ui-/] });
    await tab.page.fill("#url", server.ws("/"));
    await tab.page.fill("#streamName", name);
    await tab.click("#playBtn");
    await tab.text("#status", "PLAYING");
    return tab;
  }

  const size = (tab) => tab.page.evaluate(() => {
    const video = document.querySelector("video");
    return [video?.videoWidth, video?.videoHeight];
  });

  test("a file with B-frames is shown in order", async () => {
    const tab = await play("vod://film.mp4");
    await tab.page.waitForSelector("video");
    const places = await tab.page.evaluate(async () => {
      const video = document.querySelector("video");
      const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 360 });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      const seen = [];
      while (seen.length < 60) {
        await new Promise((resolve) => { video.requestVideoFrameCallback(resolve); });
        context.drawImage(video, 0, 0, 640, 360);
        const row = context.getImageData(0, 180, 640, 1).data;
        seen.push(Array.from({ length: 640 }, (_, x) => row[4 * x]).findIndex((red) => red > 128));
      }
      return seen;
    });
    const bar = places.filter((place) => place >= 0);
    assert.ok(bar.length > 50, `the bar is seen: ${places}`);
    assert.ok(bar.every((place, at) => at === 0 || place >= bar[at - 1]), `it never goes back: ${bar}`);
    assert.ok(bar.at(-1) - bar[0] > 60, `it moves: ${bar}`);
    await tab.text("#status", "STOPPED");
    await tab.close();
    await until("nobody makes it anew any more", async () => /^stillcast_renditions 0$/m.test(await (await fetch(server.http("/metrics"))).text()));
  });

  test("pictures come in the size that the page asks for, of a live stream and of a file", async () => {
    for (const name of ["test", "vod-live://film.mp4"]) {
      const tab = await play(name, "?resolution=320x180");
      await until(`${name} is small`, async () => (await size(tab)).join() === "320,180");
      const whole = await play(name);
      await until(`${name} is whole for others`, async () => (await size(whole)).join() === (name === "test" ? "1280,720" : "640,360"));
      assert.deepEqual(await size(tab), [320, 180]);
      await tab.close();
      await whole.close();
    }
  });
});
