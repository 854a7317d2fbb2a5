import { z } from 'zod';

// An empty variable counts as absent: orchestrators often pass `PORT=`.
const blankIsAbsent = (value: unknown): unknown => (value === '' ? undefined : value);

const whole = (min: number, max: number, fallback: number) =>
  z.preprocess(blankIsAbsent, z.coerce.number().int().min(min).max(max).default(fallback));

const schema = z.object({
  HOST: z.preprocess(blankIsAbsent, z.string().default('0.0.0.0')),
  PORT: whole(0, 65535, 3000),
  LOG_LEVEL: z.preprocess(
    blankIsAbsent,
    z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  ),
  MAX_ORDERS: whole(1, 1_000_000, 10_000),
  DRAIN_MS: whole(0, 60_000, 1_000),
  STOP_MS: whole(1, 120_000, 10_000),
});

/** Everything that the environment decides, checked once, before listening. */
export interface Config {
  /** Address to listen on. */
  host: string;
  /** TCP port, 0 for any free one. */
  port: number;
  logLevel: string;
  /** How many orders are kept before new ones are refused. */
  maxOrders: number;
  /** Milliseconds between "not ready" and closing the port, so that a load balancer notices. */
  drainMs: number;
  /** Milliseconds that requests in progress then have to finish. */
  stopMs: number;
}

/** Reads the configuration; throws one error that names every bad variable. */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  const result = schema.safeParse(env);
  if (!result.success) {
    const faults = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw new Error(`bad environment: ${faults.join('; ')}`);
  }
  const { HOST, PORT, LOG_LEVEL, MAX_ORDERS, DRAIN_MS, STOP_MS } = result.data;
  return { host: HOST, port: PORT, logLevel: LOG_LEVEL, maxOrders: MAX_ORDERS, drainMs: DRAIN_MS, stopMs: STOP_MS };
}
