// What the fake camera shows: eight patches of known colour, and below them a white block that moves with each frame.
// `describeCamera` gives the still part of it to publishers that are no browsers.
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const WIDTH = 640;
/** 4:3, the shape that the client packages ask a camera for. */
export const HEIGHT = 480;
const FRAMES = 32;
const COLUMNS = 4;
const PATCH = { width: 160, height: 200 };
/** Side of the moving block; it touches the lower edge. */
export const BLOCK = 40;
/** Of the block, in pixels a frame: back at the left when the file begins anew. */
const SPEED = 18;

/** Red, green, blue of each patch, row by row. */
export const COLOURS = [
  [200, 40, 40], [40, 160, 60], [40, 60, 190], [220, 200, 40],
  [180, 60, 170], [40, 180, 190], [128, 128, 128], [230, 230, 230],
];

/** Place of a patch in a picture of any size, as parts of its width and height. */
export function patchPlace(index) {
  return {
    left: ((index % COLUMNS) * PATCH.width) / WIDTH, top: (Math.floor(index / COLUMNS) * PATCH.height) / HEIGHT,
    width: PATCH.width / WIDTH, height: PATCH.height / HEIGHT,
  };
}

/** BT.601, limited range: what an untagged small picture means. */
function toYuv([red, green, blue]) {
  return [
    16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255,
    128 + (-37.797 * red - 74.203 * green + 112 * blue) / 255,
    128 + (112 * red - 93.786 * green - 18.214 * blue) / 255,
  ].map(Math.round);
}

function fill(plane, stride, left, top, width, height, value) {
  for (let row = top; row < top + height; row += 1) plane.fill(value, row * stride + left, row * stride + left + width);
}

/** One frame as I420, `scale` times the size. */
function frame(number, scale) {
  const width = WIDTH * scale;
  const height = HEIGHT * scale;
  const luma = Buffer.alloc(width * height, 16);
  const chroma = [Buffer.alloc((width * height) / 4, 128), Buffer.alloc((width * height) / 4, 128)];
  COLOURS.forEach((colour, index) => {
    const [patchWidth, patchHeight] = [PATCH.width * scale, PATCH.height * scale];
    const yuv = toYuv(colour);
    const left = (index % COLUMNS) * patchWidth;
    const top = Math.floor(index / COLUMNS) * patchHeight;
    fill(luma, width, left, top, patchWidth, patchHeight, yuv[0]);
    chroma.forEach((plane, which) => fill(plane, width / 2, left / 2, top / 2, patchWidth / 2, patchHeight / 2, yuv[1 + which]));
  });
  const block = BLOCK * scale;
  fill(luma, width, number * SPEED * scale, height - block, block, block, 235);
  return Buffer.concat([luma, ...chroma]);
}

/** Writes the camera's file, which Chromium plays in a loop. `scale` makes a larger camera, with the same patches. */
export async function makeCamera({ scale = 1 } = {}) {
  const folder = await mkdtemp(join(tmpdir(), "stillcast-camera-"));
  const path = join(folder, "patches.y4m");
  const file = await open(path, "w");
  await file.write(`YUV4MPEG2 W${WIDTH * scale} H${HEIGHT * scale} F30:1 Ip A1:1 C420jpeg\n`);
  for (let number = 0; number < FRAMES; number += 1) {
    await file.write("FRAME\n");
    await file.write(frame(number, scale));
  }
  await file.close();
  return { path, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** The still part of the picture, for publishers in other languages: patches as `[left, top, width, height, [y, u, v]]`. */
export function describeCamera() {
  const patches = COLOURS.map((colour, index) => [(index % COLUMNS) * PATCH.width, Math.floor(index / COLUMNS) * PATCH.height, PATCH.width, PATCH.height, toYuv(colour)]);
  return { width: WIDTH, height: HEIGHT, patches };
}
