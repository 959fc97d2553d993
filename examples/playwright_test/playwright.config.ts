import { existsSync } from 'node:fs';
import { defineConfig } from '@playwright/test';

const port = process.env.GATEWAY_PORT ?? '8799';
const chromium = ['/usr/bin/chromium', '/usr/bin/google-chrome'].find(existsSync);

export default defineConfig({
  testDir: 'tests',
  // One gateway serves all tests and `reset` empties it, so they run one after the other.
  workers: 1,
  reporter: 'line',
  use: {
    // Drives the Chromium of the system if there is one; else run `npx playwright install chromium`.
    launchOptions: chromium ? { executablePath: chromium, args: ['--no-sandbox'] } : {},
  },
  webServer: {
    command: `${process.env.GATEWAY ?? 'gateway'} serve --inspect --port ${port}`,
    url: `http://localhost:${port}/ready`,
    gracefulShutdown: { signal: 'SIGTERM', timeout: 5_000 },
  },
  metadata: { gateway: `http://localhost:${port}` },
});
