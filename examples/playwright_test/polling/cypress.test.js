// What a Cypress suite does, without Cypress: `cy.request` in a command that is asked again until it fits. In a Cypress
// project the function below is, in cypress/support/commands.js:
//
//   Cypress.Commands.add('tracked', (filter, count = 1) => {
//     const ask = (left) => cy.request('POST', `${Cypress.env('gateway')}/inspect/good`, filter).then(({ body }) => {
//       if (body.length === count) return cy.wrap(body);
//       if (!left) throw new Error(`expected ${count} of ${JSON.stringify(filter)}, got ${JSON.stringify(body)}`);
//       return cy.wait(100).then(() => ask(left - 1));
//     });
//     return ask(50);
//   });
//
//   cy.visit('/');
//   cy.tracked({ name: 'Viewed product' }).its(0).should('deep.include', { data: { sku: 'A1' } });

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { beforeEach, test } from 'node:test';

const gateway = process.env.GATEWAY_URL;

async function request(method, path, body) {
  const response = await fetch(gateway + path, { method, body: body && JSON.stringify(body) });
  return response.json();
}

async function tracked(filter, count = 1, left = 50) {
  const found = await request('POST', '/inspect/good', filter);
  if (found.length === count) return found;
  assert(left, `expected ${count} of ${JSON.stringify(filter)}, got ${JSON.stringify(found)}`);
  await setTimeout(100);
  return tracked(filter, count, left - 1);
}

beforeEach(() => request('POST', '/inspect/reset'));

async function visit(...commands) {
  const { api_key: key } = await request('GET', '/inspect/site');
  const entries = commands.map((command) => ({ id: randomUUID(), at: Date.now(), command }));
  await request('POST', '/v1/commands', { key, sent_at: Date.now(), commands: entries });
}

test('an event is awaited by asking again', async () => {
  setTimeout(200).then(() => visit(['track', 'Viewed product', { sku: 'A1' }]));
  const [seen] = await tracked({ name: 'Viewed product' });
  assert.deepEqual(seen.data, { sku: 'A1' });
});

test('a reset leaves nothing behind', async () => {
  await visit(['user', { id: '42' }], ['track', 'Viewed product']);
  await tracked({ person: '42' }, 2);
  await request('POST', '/inspect/reset');
  assert.deepEqual(await request('GET', '/inspect/all'), { total: 0, good: 0, bad: 0 });
  assert.deepEqual(await request('GET', '/inspect/people'), []);
});
