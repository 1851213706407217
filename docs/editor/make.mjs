// Makes docs/editor.png: what a YAML editor says and offers while somebody edits
// models.yaml. The words come from a language server as editors run it, asked over
// standard input and output, with the schema that `roundhouse schema` prints; the
// page only shows them. `make editor-picture` installs what this needs and runs it:
//
//   node make.mjs FOLDER_WITH_NODE_MODULES SCHEMA PICTURE

import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, schema, picture] = process.argv.slice(2).map((path) => resolve(path));

// The mark | is where the cursor stands. It is no part of the text.
const SOURCE = `# yaml-language-server: $schema=models.schema.json
memory: 48

models:
  mlx-community/Qwen3-4B-4bit:
    aliases: [small, gpt-4o-mini]
    keep: always
    idle_unlod: 10m

pool:
  max_models: 2
  |
`;

// How long the server may take, milliseconds.
const PATIENCE = 60_000;

/** A language server and what it has said. */
class Server {
  constructor(program) {
    this.child = spawn(process.execPath, [program, "--stdio"], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.waiting = new Map();
    this.next = 1;
    this.unread = Buffer.alloc(0);
    this.child.stdout.on("data", (bytes) => this.read(bytes));
    this.diagnostics = new Promise((told) => (this.told = told));
  }

  /** Messages have a head that says how long they are, as in HTTP. */
  read(bytes) {
    this.unread = Buffer.concat([this.unread, bytes]);
    for (;;) {
      const end = this.unread.indexOf("\r\n\r\n");
      if (end < 0) return;
      const head = this.unread.subarray(0, end).toString();
      const length = Number(/Content-Length: *(\d+)/i.exec(head)[1]);
      if (this.unread.length < end + 4 + length) return;
      const body = this.unread.subarray(end + 4, end + 4 + length).toString();
      this.unread = this.unread.subarray(end + 4 + length);
      this.heard(JSON.parse(body));
    }
  }

  heard(message) {
    if (message.method === "textDocument/publishDiagnostics") {
      if (message.params.diagnostics.length > 0) this.told(message.params.diagnostics);
    } else if (message.method !== undefined && message.id !== undefined) {
      // Its questions about settings: nothing is set, the file's first line says all.
      const items = message.params?.items;
      this.write({ id: message.id, result: items ? items.map(() => null) : null });
    } else if (this.waiting.has(message.id)) {
      this.waiting.get(message.id)(message.result);
    }
  }

  write(message) {
    const body = JSON.stringify({ jsonrpc: "2.0", ...message });
    this.child.stdin.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  }

  tell(method, params) {
    this.write({ method, params });
  }

  ask(method, params) {
    const id = this.next++;
    this.write({ id, method, params });
    return new Promise((answer) => this.waiting.set(id, answer));
  }
}

/** Fails instead of waiting forever. */
function soon(promise, what) {
  const late = new Promise((_, fail) => {
    setTimeout(() => fail(new Error(`the language server did not tell ${what}`)), PATIENCE).unref();
  });
  return Promise.race([promise, late]);
}

/** What the server says of the text and offers at the cursor. */
async function asked(folder) {
  const cursor = SOURCE.indexOf("|");
  const text = SOURCE.replace("|", "");
  const before = SOURCE.slice(0, cursor).split("\n");
  const position = { line: before.length - 1, character: before.at(-1).length };
  const uri = pathToFileURL(join(folder, "models.yaml")).href;
  const server = new Server(join(modules, "yaml-language-server/bin/yaml-language-server"));
  try {
    const initialize = {
      processId: process.pid,
      rootUri: pathToFileURL(folder).href,
      capabilities: {
        textDocument: {
          completion: { completionItem: { documentationFormat: ["markdown", "plaintext"] } },
          publishDiagnostics: {},
        },
        workspace: { configuration: true },
      },
    };
    await soon(server.ask("initialize", initialize), "that it is there");
    server.tell("initialized", {});
    const document = { uri, languageId: "yaml", version: 1, text };
    server.tell("textDocument/didOpen", { textDocument: document });
    const diagnostics = await soon(server.diagnostics, "what is wrong");
    const offer = { textDocument: { uri }, position };
    const offered = await soon(server.ask("textDocument/completion", offer), "what fits");
    const items = (offered.items ?? offered).map((item) => ({
      label: item.label,
      about: item.documentation?.value ?? item.documentation ?? "",
    }));
    return { text, position, diagnostics, items };
  } finally {
    server.child.kill();
  }
}

/** The browser of this machine. */
function browser() {
  const names = ["chromium", "chromium-browser", "google-chrome"];
  const folders = (process.env.PATH ?? "").split(delimiter);
  const programs = names.flatMap((name) => folders.map((folder) => join(folder, name)));
  const found = programs.find((program) => existsSync(program));
  if (found === undefined) throw new Error("no Chromium: install the package `chromium`");
  return found;
}

/** Shows it in an editor and takes the picture. */
function shown(folder, said) {
  const page = join(folder, "page.html");
  copyFileSync(new URL("page.html", import.meta.url), page);
  const base = pathToFileURL(join(modules, "codemirror/")).href;
  writeFileSync(join(folder, "said.js"), `const said = ${JSON.stringify({ base, ...said })};\n`);
  const flags = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--force-device-scale-factor=2",
    "--window-size=1000,560",
    "--virtual-time-budget=5000",
    `--user-data-dir=${join(folder, "profile")}`,
    `--screenshot=${picture}`,
    pathToFileURL(page).href,
  ];
  const { status, stderr } = spawnSync(browser(), flags, { encoding: "utf8" });
  if (status !== 0 || !existsSync(picture)) throw new Error(`no picture:\n${stderr}`);
}

const folder = mkdtempSync(join(tmpdir(), "editor-"));
try {
  copyFileSync(schema, join(folder, "models.schema.json"));
  const said = await asked(folder);
  const words = said.diagnostics.map((problem) => problem.message).join("\n");
  const labels = said.items.map((item) => item.label);
  if (!words.includes("idle_unlod") || !words.includes("48GB") || !labels.includes("idle_unload")) {
    throw new Error(`not what the picture is about:\n${words}\n${labels.join(" ")}`);
  }
  rmSync(picture, { force: true });
  shown(folder, said);
  console.log(words);
  console.log(labels.join(" "));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
