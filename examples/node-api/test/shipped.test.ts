// Starts what ships, dist/server.js, as a process of its own.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { join } from 'node:path';

const run = (env: NodeJS.ProcessEnv): ChildProcess =>
  spawn(process.execPath, [join(__dirname, '..', 'dist', 'server.js')], {
    env: { HOST: '127.0.0.1', PORT: '0', NODE_ENV: 'production', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });

test.each(['SIGTERM', 'SIGINT'] as const)('serves, logs JSON and stops in order on %s', async (signal) => {
  const child = run({ DRAIN_MS: '0' });
  const exit = once(child, 'exit');
  const messages: string[] = [];
  for await (const line of createInterface({ input: child.stdout! })) {
    const entry = JSON.parse(line);
    messages.push(entry.msg);
    if (entry.msg === 'listening') {
      expect((await fetch(`${entry.url}/ready`)).status).toBe(200);
      child.kill(signal);
    }
  }
  expect(messages).toEqual(['listening', 'told to stop', 'draining', 'stopped']);
  expect(await exit).toEqual([0, null]);
});

test('a second signal ends it at once', async () => {
  const child = run({ DRAIN_MS: '60000' });
  const exit = once(child, 'exit');
  for await (const line of createInterface({ input: child.stdout! })) {
    const { msg } = JSON.parse(line);
    if (msg === 'listening' || msg === 'told to stop') {
      child.kill('SIGTERM');
    }
  }
  expect(await exit).toEqual([1, null]);
});

test('says why it cannot start', async () => {
  const child = run({ PORT: 'http' });
  const exit = once(child, 'exit');
  const [data] = await once(child.stderr!, 'data');
  expect(JSON.parse(String(data)).error).toContain('bad environment: PORT');
  expect(await exit).toEqual([1, null]);
});
