// A receiver that verifies each delivery with a public library for Node.
// Usage: receiver.cjs FOLDER LIBRARY SECRET, where FOLDER has the node_modules. Prints its port. Answers 204 to a
// delivery that the library accepts, and 401 to one that it refuses.

const http = require("node:http");
const { createRequire } = require("node:module");

const [folder, library, secret] = process.argv.slice(2);
const load = createRequire(`${folder}/package.json`);

function verifier() {
  if (library === "kapso") {
    const { verifySignature, normalizeWebhook } = load("@kapso/whatsapp-cloud-api/server");
    return (body, headers) => {
      const signatureHeader = headers["x-hub-signature-256"];
      if (!verifySignature({ appSecret: secret, rawBody: body, signatureHeader })) throw new Error("wrong signature");
      normalizeWebhook(JSON.parse(body.toString()));
    };
  }
  const { Webhook } = load(library);
  const webhook = new Webhook(secret);
  return (body, headers) => webhook.verify(body, headers);
}

const verify = verifier();
const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    try {
      verify(Buffer.concat(chunks), request.headers);
      response.writeHead(204).end();
    } catch (error) {
      console.error(`${library}: ${error}`);
      response.writeHead(401).end();
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
