// Files and live streams that another program makes, and what it says of ours.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";

const run = promisify(execFile);
/** Encoders that run; none outlives the tests, however those end. */
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

/** H.264 without B-frames, a keyframe a second. */
export const H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-profile:v", "baseline", "-pix_fmt", "yuv420p", "-g", "30", "-b:v", "1500k"];
export const AAC = ["-c:a", "aac", "-b:a", "96k"];

/** Input arguments for a tone. */
export const sine = (hertz) => ["-f", "lavfi", "-i", `sine=frequency=${hertz}:sample_rate=48000`];
/** Input arguments for the fake camera's file, again and again. */
export const patches = (camera) => ["-stream_loop", "-1", "-i", camera.path];

/** Runs ffmpeg to its end. */
export async function ffmpeg(...parameters) {
  await run("ffmpeg", ["-nostdin", "-v", "error", "-y", ...parameters]);
}

/** Sends a live stream until it is stopped. */
export function publish(...parameters) {
  const child = spawn("ffmpeg", ["-nostdin", "-v", "error", "-re", ...parameters], { stdio: ["ignore", "ignore", "pipe"] });
  running.add(child);
  let said = "";
  child.stderr.on("data", (data) => { said += data; });
  child.once("exit", () => running.delete(child));
  return {
    said: () => said,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

/** What ffprobe says of a file, which it must read without a complaint: `{seconds, video, audio}`. */
export async function probe(path) {
  const { stdout, stderr } = await run("ffprobe", ["-v", "warning", "-of", "json", "-show_format", "-show_streams", path]);
  assert.equal(stderr, "", "ffprobe complains");
  const { format, streams } = JSON.parse(stdout);
  return { seconds: Number(format.duration), video: streams.find((stream) => stream.codec_type === "video"), audio: streams.find((stream) => stream.codec_type === "audio") };
}
