import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test as base, expect } from '@playwright/test';

export type Good = { eventType: string; name: string | null; data: any; person: { identities: string[] } | null };
export type Bad = { pushed: string; why: string; how: string; code: string; errors: string[] };

/** What arrived at a gateway that runs with `--inspect`. */
export class Gateway {
  constructor(readonly url: string, readonly site: { api_key: string; secret_key: string; snippet_html: string }) {}

  static async open(url: string): Promise<Gateway> {
    await fetch(`${url}/inspect/reset`, { method: 'POST' });
    return new Gateway(url, await (await fetch(`${url}/inspect/site`)).json());
  }

  private async post<T>(call: string, filter: object): Promise<T> {
    const response = await fetch(`${this.url}/inspect/${call}`, { method: 'POST', body: JSON.stringify(filter) });
    if (!response.ok) throw new Error(await response.text());
    return response.json();
  }

  counts = () => this.post<{ total: number; good: number; bad: number }>('all', {});
  good = (filter = {}) => this.post<Good[]>('good', filter);
  bad = (filter = {}) => this.post<Bad[]>('bad', filter);
  people = (filter = {}) => this.post<{ profile_id: string; properties: any }[]>('people', filter);

  /** The link that an email to `identity` would hold. */
  async linkFor(identity: string, url: string): Promise<string> {
    const response = await fetch(`${this.url}/v1/links`, {
      method: 'POST',
      headers: { authorization: `Bearer ${this.site.secret_key}` },
      body: JSON.stringify({ identity, url }),
    });
    return (await response.json()).url;
  }
}

/** A stand-in for the site under test: each page is the snippet and a script. */
const PAGES: Record<string, string> = {
  '/': `_veroq.push(['track', 'Viewed product', { sku: 'A1' }])`,
  '/login': `_veroq.push(['user', { id: '42', email: 'jo@x.io' }])`,
  '/mistake': `_veroq.push(['user', { id: 'undefined' }]); _veroq.push(['trakc', 'Purchased'])`,
};

export const test = base.extend<{ gateway: Gateway; shop: string }>({
  gateway: async ({}, use, info) => use(await Gateway.open(info.config.metadata.gateway)),
  shop: async ({ gateway }, use) => {
    const server: Server = createServer((request, response) => {
      const script = PAGES[new URL(request.url!, 'http://x').pathname];
      response.writeHead(script ? 200 : 404, { 'content-type': 'text/html' });
      response.end(`<!doctype html>${gateway.site.snippet_html}<script>${script ?? ''}</script><h1>Shop</h1>`);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    await use(`http://localhost:${(server.address() as AddressInfo).port}`);
    server.closeAllConnections();
    server.close();
  },
});

export { expect };
