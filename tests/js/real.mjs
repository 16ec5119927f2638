/** Talks to a real server: node --experimental-websocket real.mjs URL. Prints what came, as JSON. */

import { GracefulSocket } from "../../graceful_ws/static/graceful_ws/graceful-ws.js";

const socket = new GracefulSocket(process.argv[2], { baseDelay: 50, random: () => 0 });
const opened = [], got = [], results = [];
socket.addEventListener("open", ({ detail }) => opened.push(detail.resumed));
socket.addEventListener("message", ({ detail }) => got.push([detail.seq, detail.data.n]));
socket.connect();
for (let n = 1; n <= 30; n++) {
  const sending = socket.send({ n, result: n });
  if (n % 10 === 5) socket.cut();
  results.push(await sending);
}
const ended = new Promise((resolve) => socket.addEventListener("close", ({ detail }) => resolve(detail)));
socket.close("done");
console.log(JSON.stringify({ opened, got, results, close: await ended, rtt: socket.rtt }));
