// Runs calls of CleverTap's Node client: {endpoint, account, passcode, steps} on stdin, an answer per step on stdout.
import { readFileSync } from "node:fs";
import clevertap from "clevertap";

const { endpoint, account, passcode, steps } = JSON.parse(readFileSync(0, "utf8"));
const client = clevertap.init(account, passcode, clevertap.REGIONS.EUROPE);
client.api.apiEndpoint = endpoint;

const answers = [];
for (const [method, ...values] of steps) {
  answers.push(await client[method](...values));
}
process.stdout.write(JSON.stringify(answers));
