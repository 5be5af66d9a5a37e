// Recordings and files on the start page: what is told of them, how they are watched, and that names cannot harm it.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { AAC, H264, ffmpeg, patches, publish, sine } from "./support/media.mjs";
import { assertCamera } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { isShown, shown } from "./support/watch.mjs";

/** Each can be the name of a file, and means something else to a path, a query, a page or a shell. */
const NAMES = [`"><img src=x onerror=alert(1)>'.mp4`, "Küche & Söhne 📷.mp4", "100%25 + 1?x=y#z.mp4", "\u202egnp.4pm.mp4", "; rm -rf ~.mp4"];
const SECONDS = 3;

describe("recordings and files on the start page", { skip: noBrowser, timeout: 300000 }, () => {
  let folder;
  let server;
  let browser;
  let camera;
  const place = (...parts) => join(folder, ...parts);

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "stillcast-shelves-"));
    camera = await makeCamera();
    for (const shelf of ["records", "media/sub"]) await mkdir(place(shelf), { recursive: true });
    await ffmpeg(...patches(camera), ...sine(500), "-t", String(SECONDS), ...H264, ...AAC, place("media/film.mp4"));
    const film = await readFile(place("media/film.mp4"));
    for (const name of NAMES) {
      await writeFile(place("records", name), film);
      await writeFile(place("media/sub", name), film);
    }
    await symlink("/etc/passwd", place("records/link.mp4"));
    await utimes(place("records", NAMES[0]), new Date(), new Date(Date.now() - 3 * 3600e3));
    server = await startServer({ settings: { records_dir: place("records"), media_dir: place("media"), record_flash_published_streams: true, stream_record_policy: "streamName" } });
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
    await rm(folder, { recursive: true, force: true });
  });

  const open = async (options = {}) => {
    const tab = await openTab(browser, server.http("/"), options);
    tab.page.on("dialog", (dialog) => assert.fail(`a name ran as a script: ${dialog.message()}`));
    return tab;
  };
  const row = (tab, shelf, name) => tab.page.locator(`#${shelf} li`).filter({ has: tab.page.getByText(name, { exact: true }) });
  const dialog = (tab) => tab.page.locator("#watch");

  test("no name can harm the page, and each file is that file", async () => {
    const tab = await open();
    for (const name of NAMES) {
      await until(`a row for ${name}`, () => row(tab, "recordings", name).isVisible());
      const download = row(tab, "recordings", name).getByRole("link", { name: `Download ${name}`, exact: true });
      const answer = await fetch(new URL(await download.getAttribute("href"), server.http("/")));
      assert.deepEqual([answer.status, answer.headers.get("content-type")], [200, "video/mp4"], name);
      assert.deepEqual(Buffer.from(await answer.arrayBuffer()), await readFile(place("records", name)));
      await until(`a row for the file ${name}`, () => row(tab, "files", `sub/${name}`).isVisible());
      const addresses = [];
      for (const label of [`Watch sub/${name}`, `Watch sub/${name} together with others`]) {
        const link = row(tab, "files", `sub/${name}`).getByRole("link", { name: label, exact: true });
        addresses.push(new URL(await link.getAttribute("href"), server.http("/")).searchParams.get("streamName"));
      }
      assert.deepEqual(addresses, [`vod://sub/${name}`, `vod-live://sub/${name}`]);
    }
    assert.equal(await tab.page.locator("img[src='x']").count(), 0);
    assert.equal(await tab.page.locator("#recordings li").count(), NAMES.length, "no links, nothing hidden");
    assert.match(await row(tab, "recordings", NAMES[0]).locator("time").textContent(), /^3 h 0 min ago$/);
    assert.match(await row(tab, "recordings", NAMES[0]).locator(".bytes").textContent(), /^\d+(\.\d+)? [KM]iB$/);
    await tab.close();
  });

  test("a recording is watched on the page and closed by the keyboard", async () => {
    const tab = await open();
    const [name] = NAMES;
    const watch = row(tab, "recordings", name).getByRole("button", { name: `Watch ${name}`, exact: true });
    await watch.focus();
    await tab.page.keyboard.press("Enter");
    await until("a picture", () => isShown(tab, "#watch video"));
    assertCamera(await shown(tab, "#watch video"), "the recording");
    assert.equal(await tab.page.textContent("#watchTitle"), name);
    await until("its end", () => tab.page.evaluate(() => document.querySelector("#watch video").ended), (SECONDS + 10) * 1000);
    const { duration } = await tab.page.evaluate(() => ({ duration: document.querySelector("#watch video").duration }));
    assert.ok(Math.abs(duration - SECONDS) < 0.2, `${duration} s`);
    await tab.page.keyboard.press("Escape");
    await until("it is closed", async () => !(await dialog(tab).isVisible()));
    // The page hears of it a moment after it is seen.
    await until("nothing is fetched any more", () => tab.page.evaluate(() => !document.querySelector("#watch video").hasAttribute("src")));
    await until("the focus is back", async () => (await tab.page.evaluate(() => document.activeElement.getAttribute("aria-label"))) === `Watch ${name}`);

    const [download] = await Promise.all([tab.page.waitForEvent("download"), row(tab, "recordings", NAMES[4]).getByText("Download").click()]);
    assert.deepEqual(await readFile(await download.path()), await readFile(place("records", NAMES[4])));
    await tab.close();
  });

  test("what is being recorded is marked, grows, can be watched, and is complete when it ends", async () => {
    // When the encoder leaves, the page may ask for its still once more.
    const tab = await open({ expected: [/404/] });
    const encoder = publish(...patches(camera), ...sine(500), ...H264, ...AAC, "-f", "flv", server.rtmp("evening"));
    try {
      await until("the row", () => row(tab, "recordings", "evening.mp4").isVisible(), 20000);
      await until("it is marked", async () => (await row(tab, "recordings", "evening.mp4").locator(".word").textContent()) === "recording");
      assert.equal(await tab.page.locator("#recordings li").first().locator("bdi").textContent(), "evening.mp4", "it is the newest");
      const size = () => row(tab, "recordings", "evening.mp4").locator(".bytes").textContent();
      const before = await size();
      await until("it grows", async () => (await size()) !== before);
      await row(tab, "recordings", "evening.mp4").getByText("Watch").click();
      await until("a picture of what there is", () => isShown(tab, "#watch video"));
      assertCamera(await shown(tab, "#watch video"), "the recording so far");
      assert.match(await tab.page.textContent("#watchNote"), /still being recorded/);
      await dialog(tab).getByRole("button", { name: "Close" }).click();
    } finally {
      await encoder.stop();
    }
    await until("it is complete", async () => (await row(tab, "recordings", "evening.mp4").locator(".word").textContent()) === "", 20000);
    await tab.close();
    await rm(place("records/evening.mp4"));
  });

  test("a file of the media folder is watched in the player", async () => {
    const tab = await open();
    await until("the row", () => row(tab, "files", "film.mp4").isVisible());
    await row(tab, "files", "film.mp4").getByRole("link", { name: "Watch film.mp4", exact: true }).click();
    await tab.text("#status", "PLAYING");
    await until("a picture", () => isShown(tab, "#remoteVideo video"));
    assertCamera(await shown(tab, "#remoteVideo video"), "the film");
    await tab.text("#status", "STOPPED", (SECONDS + 10) * 1000);
    await tab.close();
  });

  test("a long list is short at first, and the focus goes on into what is shown then", async () => {
    const recordings = Array.from({ length: 40 }, (_, n) => ({ fileName: `r${String(n).padStart(2, "0")}.mp4`, bytes: 1000 * n, modifyDate: 1e12 - n, isRunning: false }));
    const tab = await open({
      context: { viewport: { width: 360, height: 740 } },
      prepare: (page) => page.route("**/rest-api/recorder/list", (route) => route.fulfill({ json: { now: 1e12, recordings, isWhole: false } })),
    });
    await until("ten rows", async () => (await tab.page.locator("#recordings li").count()) === 10);
    assert.ok(await tab.page.getByText("There are more files than are listed here.").first().isVisible());
    await tab.page.getByRole("button", { name: "Show all 40" }).click();
    assert.equal(await tab.page.locator("#recordings li").count(), 40);
    assert.equal(await tab.page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Watch r10.mp4");
    const { inner, content } = await tab.page.evaluate(() => ({ inner: innerWidth, content: document.documentElement.scrollWidth }));
    assert.ok(content <= inner, `the page is ${content} wide on a screen of ${inner}`);
    await tab.close();
  });

  test("a file that cannot be played is told, and no lists are asked for while nobody looks", async () => {
    await writeFile(place("records/broken.mp4"), "this is no film");
    let asked = 0;
    const tab = await open({ prepare: (page) => page.route("**/rest-api/*/list", (route) => { asked += 1; return route.continue(); }) });
    await until("the row", () => row(tab, "recordings", "broken.mp4").isVisible());
    await row(tab, "recordings", "broken.mp4").getByText("Watch").click();
    await until("the reason", async () => /cannot play the file/.test(await tab.page.textContent("#watchNote")));
    await tab.page.keyboard.press("Escape");
    await tab.page.evaluate(() => {
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => "hidden" });
      document.dispatchEvent(new Event("visibilitychange"));
    });
    await new Promise((resolve) => { setTimeout(resolve, 500); });
    const before = asked;
    await new Promise((resolve) => { setTimeout(resolve, 11000); });
    assert.equal(asked, before);
    await tab.close();
    await rm(place("records/broken.mp4"));
  });

  test("empty shelves say how they are filled", async (context) => {
    const own = await startServer();
    context.after(() => own.close());
    const tab = await openTab(browser, own.http("/"));
    await until("the words", async () => (await tab.page.locator("#recordings .none").isVisible()) && (await tab.page.locator("#files .none").isVisible()));
    await tab.page.getByRole("link", { name: "Record this device’s camera" }).click();
    assert.equal(await tab.page.title(), "Stream Recording · Stillcast");
    await tab.close();
  });
});
