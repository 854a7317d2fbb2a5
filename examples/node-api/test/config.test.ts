import { readConfig } from '../src/config';

test('an empty environment is complete', () => {
  expect(readConfig({})).toEqual({
    host: '0.0.0.0',
    port: 3000,
    logLevel: 'info',
    maxOrders: 10_000,
    drainMs: 1_000,
    stopMs: 10_000,
  });
});

test('variables are read, and blank ones count as absent', () => {
  const config = readConfig({ HOST: '127.0.0.1', PORT: '8080', LOG_LEVEL: '', DRAIN_MS: '0' });
  expect(config).toMatchObject({ host: '127.0.0.1', port: 8080, logLevel: 'info', drainMs: 0 });
});

test('every bad variable is named at once', () => {
  expect(() => readConfig({ PORT: '70000', LOG_LEVEL: 'loud', STOP_MS: '1.5' })).toThrow(
    /bad environment: PORT: .*LOG_LEVEL: .*STOP_MS: /,
  );
});
