// Files on demand in the unmodified player page: for one, for all, to the end, and none.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { AAC, H264, ffmpeg, patches, sine } from "./support/media.mjs";
import { assertCamera, blockPosition } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { hearing, isShown, receiving, shown, tone } from "./support/watch.mjs";
import { GENERATIONS, pagePath } from "./support/websdk.mjs";

const SECONDS = 6;
const FPS = 30;
const TONE_HZ = 1000;

describe("files on demand in the unmodified player", { skip: noBrowser, timeout: 300000 }, () => {
  let folder;
  let server;
  let browser;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "stillcast-media-"));
    const camera = await makeCamera();
    const film = ["-t", String(SECONDS), ...H264, ...AAC];
    await ffmpeg(...patches(camera), ...sine(TONE_HZ), "-shortest", ...film, join(folder, "film.mp4"));
    await mkdir(join(folder, "sub"));
    await ffmpeg(...sine(440), "-t", String(SECONDS), ...AAC, join(folder, "sub", "sound.mp4"));
    await camera.remove();
    server = await startServer({ settings: { web_dir: GENERATIONS[0].folder, media_dir: folder } });
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await rm(folder, { recursive: true, force: true });
  });

  // The package leaves out pictures of the slider that its player page shows.
  const open = (name) => openTab(browser, `${server.http(pagePath("player"))}?streamName=${encodeURIComponent(name)}`, { ports: { ws: server.ports.ws, http: server.ports.http }, expected: [/images\/ui-/] });
  const info = (tab) => tab.page.locator("#info").textContent();
  const video = "#remoteVideo video";

  async function play(name) {
    const tab = await open(name);
    await tab.click("#playBtn");
    await tab.text("#status", "PLAYING");
    return tab;
  }

  test("vod:// plays from the beginning to the end, with its picture and its sound", async () => {
    const tab = await play("vod://film.mp4");
    await until("a picture", () => isShown(tab, video));
    assertCamera(await shown(tab, video), "the film");
    const { frequency } = await until("the film's tone", async () => {
      const heard = await tone(tab, video);
      return heard.above > 40 && heard;
    });
    assert.ok(Math.abs(frequency - TONE_HZ) < 10, `heard ${frequency} Hz`);
    let last = await receiving(tab);
    const sounds = [await hearing(tab)];
    assert.equal(sounds[0].codec, "audio/opus");
    // Statistics end with the connection: the last ones are kept.
    await until("the end", async () => {
      last = (await receiving(tab)) ?? last;
      return (await tab.page.textContent("#status")) === "STOPPED";
    }, (SECONDS + 10) * 1000);
    assert.ok(last.frames > (SECONDS - 1) * FPS, `${last.frames} pictures were decoded`);
    assert.equal(last.lost, 0);
    assert.equal((await server.rest("/vod/find_all", {})).status, 404, "nothing is left of it");
    await tab.close();
  });

  test("vod-live:// is one film for two viewers, who see its end together", async () => {
    const first = await play("vod-live://film.mp4");
    await until("the first sees it", async () => (await receiving(first))?.frames > FPS);
    const second = await play("vod-live://film.mp4");
    await until("the second sees it", () => isShown(second, video));
    const { body: films } = await server.rest("/vod/find_all", {});
    assert.deepEqual(films.map((film) => film.uri), ["vod-live://film.mp4"]);
    const { body: viewers } = await server.rest("/stream/find", { published: false });
    assert.equal(viewers.length, 2);
    assertCamera(await shown(second, video), "the second viewer");
    const before = blockPosition(await shown(second, video));
    await until("it moves", async () => blockPosition(await shown(second, video)) !== before);
    await until("the second hears it", async () => Math.abs((await tone(second, video)).frequency - TONE_HZ) < 10);
    await first.text("#status", "FAILED", (SECONDS + 10) * 1000);
    await second.text("#status", "FAILED", 2000);
    for (const tab of [first, second]) {
      assert.equal((await info(tab)).trim(), "Stopped by publisher stop");
      await tab.close();
    }
  });

  test("a file with sound alone is heard", async () => {
    const tab = await play("vod://sub/sound.mp4");
    await until("its tone", async () => {
      const heard = await tone(tab, video);
      return heard.above > 40 && Math.abs(heard.frequency - 440) < 10;
    });
    await until("the element plays", () => tab.page.evaluate((where) => document.querySelector(where).readyState >= 2 && document.querySelector(where).currentTime > 0.5, video));
    await tab.text("#status", "STOPPED", (SECONDS + 10) * 1000);
    await tab.close();
  });

  test("a film that is stopped can be begun anew", async () => {
    const tab = await play("vod://film.mp4");
    await until("a picture", async () => (await receiving(tab))?.frames > 10);
    await tab.click("#playBtn");
    await tab.text("#status", "STOPPED");
    await tab.click("#playBtn");
    await tab.text("#status", "PLAYING");
    await until("a picture again", async () => (await receiving(tab))?.frames > 0);
    await tab.click("#playBtn");
    await tab.text("#status", "STOPPED");
    await tab.close();
  });

  for (const name of ["vod://nothing.mp4", "vod-live://nothing.mp4", "vod://../film.mp4", "vod:///etc/passwd"]) {
    test(`no file: ${name}`, async () => {
      const tab = await open(name);
      await tab.click("#playBtn");
      await tab.text("#status", "FAILED");
      assert.equal((await info(tab)).trim(), "File not found");
      await tab.close();
    });
  }
});
