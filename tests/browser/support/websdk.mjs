// The unmodified client packages as npm unpacks them. The server serves a package when `web_dir` names its folder; its
// files then stand over the built-in pages, at the addresses that the manuals print.
import { createRequire } from "node:module";
import { dirname } from "node:path";

const require = createRequire(import.meta.url);
const folderOf = (npm) => dirname(require.resolve(`${npm}/package.json`));

export const GENERATIONS = [
  { version: "2.0.276", folder: folderOf("@flashphoner/websdk") },
  { version: "2.0.218", folder: folderOf("websdk-2.0.218") },
];

/** Path of an example page. */
export function pagePath(name, prefix = "/client2") {
  return `${prefix}/examples/demo/streaming/${name}/${name}.html`;
}
