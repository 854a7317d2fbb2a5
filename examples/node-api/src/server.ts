import { pino } from 'pino';
import { readConfig } from './config';
import { start } from './service';

async function main(): Promise<void> {
  const config = readConfig(process.env);
  // Written at once: what is still under way when the process exits could
  // otherwise come out after later lines.
  const log = pino({ level: config.logLevel }, pino.destination({ sync: true }));
  const starting = start(config, log);

  // The first signal shuts down in order, the second at once. Handled before
  // "listening" is said: who reads that may send one at the same moment.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      process.once(signal, () => process.exit(1));
      log.info({ signal }, 'told to stop');
      void starting.then((service) => service.stop()).then((finished) => process.exit(finished ? 0 : 1));
    });
  }
  await starting;
}

main().catch((error: unknown) => {
  console.error(JSON.stringify({ level: 60, msg: 'cannot start', error: String(error) }));
  process.exit(1);
});
