import { expect, test } from './gateway.ts';

test('a product view is tracked', async ({ page, shop, gateway }) => {
  await page.goto(shop);
  await expect.poll(() => gateway.good({ name: 'Viewed product' })).toMatchObject([{ data: { sku: 'A1' } }]);
  expect(await gateway.bad()).toEqual([]);
});

test('what a visitor did before the login is theirs', async ({ page, shop, gateway }) => {
  await page.goto(shop);
  await page.goto(`${shop}/login`);
  await expect.poll(() => gateway.good({ name: 'Viewed product', person: '42' })).toHaveLength(1);
  expect(await gateway.people({ person: '42' })).toMatchObject([{ properties: { email: 'jo@x.io' } }]);
});

test('a link in an email knows who clicked', async ({ page, shop, gateway }) => {
  await page.goto(await gateway.linkFor('jo@x.io', shop));
  await expect.poll(() => gateway.good({ name: 'Viewed product', person: 'jo@x.io' })).toHaveLength(1);
});

test('a mistake says what to write', async ({ page, shop, gateway }) => {
  await page.goto(`${shop}/mistake`);
  await expect.poll(gateway.counts).toMatchObject({ bad: 2 });
  const [typo] = await gateway.bad({ command: 'trakc' });
  expect(typo.why).toContain("no command 'trakc'");
  expect(typo.how).toContain("_veroq.push(['track', 'Purchased', {total: 12}])");
  expect(await gateway.bad({ code: 'blocked_identity' })).toHaveLength(1);
});
