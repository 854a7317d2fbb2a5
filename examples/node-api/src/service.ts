import { createServer } from 'node:http';
import { once } from 'node:events';
import { type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { makeApp } from './app';
import type { Config } from './config';
import { Orders } from './orders';

export interface Service {
  /** Where it listens, "http://127.0.0.1:3000". */
  url: string;
  /**
   * Shuts down: not ready at once, the port closed after `drainMs`, requests
   * in progress cut off after `stopMs`. True when all of them finished. Calling
   * it again returns the same promise.
   */
  stop: () => Promise<boolean>;
}

/** Starts the service; resolves when it accepts connections. */
export async function start(config: Config, log: Logger): Promise<Service> {
  let ready = true;
  const app = makeApp({ orders: new Orders(config.maxOrders), log, isReady: () => ready });
  const server = createServer(app);
  server.listen(config.port, config.host);
  await once(server, 'listening');
  const { address, port, family } = server.address() as AddressInfo;
  const url = `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
  log.info({ url }, 'listening');

  const shutDown = async (): Promise<boolean> => {
    ready = false;
    log.info({ drainMs: config.drainMs }, 'draining');
    await sleep(config.drainMs);

    let finished = true;
    const cutOff = setTimeout(() => {
      finished = false;
      server.closeAllConnections();
    }, config.stopMs);
    const closed = once(server, 'close');
    server.close();
    server.closeIdleConnections();
    await closed;
    clearTimeout(cutOff);
    log.info({ finished }, 'stopped');
    return finished;
  };
  let stopping: Promise<boolean> | undefined;
  return { url, stop: () => (stopping ??= shutDown()) };
}
