// Runs calls of SuprSend's Node SDK: {base_url, key, secret, steps} on stdin, an answer per step on stdout.
import { readFileSync } from "node:fs";
import suprsend from "@suprsend/node-sdk";

const { Suprsend, Event } = suprsend;
const { base_url, key, secret, steps } = JSON.parse(readFileSync(0, "utf8"));
const client = new Suprsend(key, secret, { base_url });

const edited = ([id, changes]) => {
  const edit = client.users.get_edit_instance(id);
  for (const [method, ...values] of changes) edit[method](...values);
  return edit;
};

const bulk = (instance, entries, send) => {
  instance.append(...entries);
  return instance[send]();
};

const kinds = {
  call: ([method, ...values]) => client.users[method](...values),
  edit: (change) => client.users.edit(edited(change)),
  async_edit: (change) => client.users.async_edit(edited(change)),
  bulk_edit: (changes) => bulk(client.users.get_bulk_edit_instance(), changes.map(edited), "save"),
  track: (event) => client.track_event(new Event(...event)),
  bulk_track: (events) => bulk(client.bulk_events.new_instance(), events.map((e) => new Event(...e)), "trigger"),
};

const answers = [];
for (const [kind, value] of steps) {
  try {
    answers.push({ answer: await kinds[kind](value) });
  } catch (error) {
    answers.push({ message: error.message });
  }
}
process.stdout.write(JSON.stringify(answers));
