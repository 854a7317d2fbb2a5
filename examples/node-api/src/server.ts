import { pino } from 'pino';
import { readConfig } from './config';
import { start } from './service';

async function main(): Promise<void> {
  const config = readConfig(process.env);
  const log = pino({ level: config.logLevel });
  const service = await start(config, log);

  // The first signal shuts down in order, the second at once.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      process.once(signal, () => process.exit(1));
      log.info({ signal }, 'told to stop');
      void service.stop().then((finished) => process.exit(finished ? 0 : 1));
    });
  }
}

main().catch((error: unknown) => {
  console.error(JSON.stringify({ level: 60, msg: 'cannot start', error: String(error) }));
  process.exit(1);
});
