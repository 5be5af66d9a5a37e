// Starts the real server binary in a temporary folder of its own, on free ports, and talks to it by HTTP.
import { AssertionError } from "node:assert";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createInterface } from "node:readline";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const START_LIMIT_MS = 20000;
/** Running servers; none outlives the tests, however those end. */
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
/** The server promises to stop within five seconds; the rest is for a busy machine. */
const STOP_LIMIT_MS = 10000;
const DOORS = ["ws", "wss", "http", "https", "legacy_https", "rtmp", "rtsp"];

function binary() {
  const target = process.env.CARGO_TARGET_DIR || join(ROOT, "target");
  const candidates = [process.env.STILLCAST_BIN, join(target, "release/stillcast"), join(target, "debug/stillcast")];
  const found = candidates.find((path) => path && existsSync(path));
  if (!found) throw new Error("no server binary: build it, or set STILLCAST_BIN");
  return found;
}

/**
 * @param {object} [options]
 * @param {Object<string, string|number|boolean>} [options.settings] Configuration keys.
 * @param {string[]} [options.arguments] More command line.
 */
export async function startServer(options = {}) {
  const server = new Server(options);
  server.folder = await mkdtemp(join(tmpdir(), "stillcast-"));
  await server.start();
  return server;
}

class Server {
  constructor({ settings = {}, arguments: more = [] }) {
    this.settings = settings;
    this.more = more;
    this.log = "";
    /** Port by door name, taken at the first start and kept by `start` after that. @type {Object<string, number>} */
    this.ports = Object.fromEntries(DOORS.map((door) => [door, 0]));
  }

  async start() {
    const settings = {
      ip: "127.0.0.1",
      ip_local: "127.0.0.1",
      ...Object.fromEntries(DOORS.map((door) => [`${door}.port`, this.ports[door]])),
      ...this.settings,
    };
    const file = join(this.folder, "flashphoner.properties");
    await writeFile(file, Object.entries(settings).map(([key, value]) => `${key}=${value}\n`).join(""));
    this.process = spawn(binary(), ["--config", file, ...this.more], { cwd: this.folder, stdio: ["ignore", "pipe", "pipe"] });
    const child = this.process;
    running.add(child);
    this.exited = new Promise((resolve) => child.once("exit", (code, signal) => {
      running.delete(child);
      resolve({ code, signal });
    }));
    this.process.stderr.on("data", (data) => { this.log += data; });
    await new Promise((resolve, reject) => {
      const fail = (why) => reject(new Error(`the server ${why}\n${this.log}`));
      const limit = setTimeout(fail, START_LIMIT_MS, "was not ready in time");
      this.exited.then(({ code, signal }) => fail(`ended with ${code ?? signal} before it was ready`));
      createInterface({ input: this.process.stdout }).on("line", (line) => {
        const door = /^(\w+): \w+:\/\/[^/]*:(\d+)/.exec(line);
        if (door && DOORS.includes(door[1])) this.ports[door[1]] = Number(door[2]);
        if (line === "ready") {
          clearTimeout(limit);
          resolve();
        }
      });
    });
  }

  /** Asks for a clean end and demands one. The folder stays, so that `start` may follow. */
  async stop() {
    this.process.kill("SIGTERM");
    const { code, signal } = await within(STOP_LIMIT_MS, this.exited, "the server did not stop");
    if (code !== 0) throw new Error(`the server ended with ${code ?? signal}\n${this.log}`);
  }

  /** As a crash would. */
  async kill() {
    this.process.kill("SIGKILL");
    await this.exited;
  }

  /** Clean end, and nothing is left. */
  async close() {
    try {
      if (this.process.exitCode === null && this.process.signalCode === null) await this.stop();
    } finally {
      this.process.kill("SIGKILL");
      await rm(this.folder, { recursive: true, force: true });
    }
  }

  http(path) { return `http://127.0.0.1:${this.ports.http}${path}`; }
  https(path) { return `https://127.0.0.1:${this.ports.https}${path}`; }
  rtmp(name) { return `rtmp://127.0.0.1:${this.ports.rtmp}/live/${name}`; }
  ws(path = "") { return `ws://127.0.0.1:${this.ports.ws}${path}`; }

  /** POST to the REST API. */
  async rest(call, body) {
    const answer = await fetch(this.http(`/rest-api${call}`), {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    const text = await answer.text();
    return { status: answer.status, body: text ? JSON.parse(text) : null };
  }

  /** GET of a picture: `{status, headers, bytes}`. */
  async picture(name, query = "") {
    const answer = await fetch(this.http(`/snapshots/${encodeURIComponent(name)}.png${query}`));
    return { status: answer.status, headers: answer.headers, bytes: Buffer.from(await answer.arrayBuffer()) };
  }
}

async function within(milliseconds, promise, complaint) {
  let timer;
  const limit = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(complaint)), milliseconds); });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Calls `probe` until it gives something true; its last error or value is told when it never does. What `probe` asserts must
 * hold each time.
 */
export async function until(what, probe, limitMs = 15000) {
  const end = Date.now() + limitMs;
  let last;
  for (;;) {
    try {
      last = await probe();
      if (last) return last;
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      last = error;
    }
    if (Date.now() > end) throw new Error(`waited ${limitMs} ms for: ${what}; last: ${last instanceof Error ? last.stack : JSON.stringify(last)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
