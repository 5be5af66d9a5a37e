// A second WebRTC implementation publishes H.264: aiortc, which shares no code with the browser or with the server.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { HEIGHT, WIDTH, describeCamera } from "./support/camera.mjs";
import { assertCamera, decode } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";

const VENV = fileURLToPath(new URL("../.cache/venv/bin/python", import.meta.url));
const PYTHON = process.env.PYTHON || (existsSync(VENV) ? VENV : "python3");
const SCRIPT = fileURLToPath(new URL("aiortc_publish.py", import.meta.url));
const missing = spawnSync(PYTHON, ["-c", "import aiortc, websockets"]).status !== 0;

describe("aiortc", { skip: missing && `${PYTHON} has no aiortc; tests/browser/run makes one that has`, timeout: 120000 }, () => {
  let server;

  before(async () => { server = await startServer(); });
  after(() => server?.close());

  test("publishes H.264 and gets its picture", async () => {
    const publisher = spawn(PYTHON, [SCRIPT, server.ws(), "second", JSON.stringify(describeCamera())], { stdio: ["pipe", "pipe", "pipe"] });
    let errors = "";
    publisher.stderr.on("data", (data) => { errors += data; });
    const said = [];
    createInterface({ input: publisher.stdout }).on("line", (line) => said.push(line));
    const exited = new Promise((resolve) => publisher.once("exit", resolve));
    try {
      await until("PUBLISHING", () => said.some((line) => line.startsWith("PUBLISHING")), 20000).catch((error) => {
        throw new Error(`${error.message}\n${said.join("\n")}\n${errors}`);
      });
      for (let time = 0; time < 3; time += 1) {
        const rest = await server.rest("/stream/snapshot", { streamName: "second" });
        assert.equal(rest.status, 200, JSON.stringify(rest.body));
        const picture = decode(Buffer.from(rest.body.data, "base64"));
        assert.deepEqual([picture.width, picture.height], [WIDTH, HEIGHT]);
        assertCamera(picture, "by REST");
      }
      const got = await server.picture("second");
      assert.equal(got.status, 200);
      assertCamera(decode(got.bytes), "by GET");
      publisher.stdin.end();
      assert.equal(await exited, 0, `${said.join("\n")}\n${errors}`);
      assert.equal((await server.picture("second")).status, 404);
    } finally {
      publisher.kill();
    }
  });
});
