import express, { type ErrorRequestHandler, type Express, type Response } from 'express';
import helmet from 'helmet';
import type { Logger } from 'pino';
import { ZodError } from 'zod';
import { Conflict, Full, newOrder, Orders, statusChange } from './orders';

export interface Parts {
  orders: Orders;
  log: Logger;
  /** False from the moment that shutting down begins. */
  isReady: () => boolean;
}

/** Every error leaves as problem details (RFC 9457). */
function problem(res: Response, status: number, title: string, detail?: unknown): void {
  res.status(status).type('application/problem+json').send(JSON.stringify({ status, title, detail }));
}

const noSuchOrder = (res: Response) => problem(res, 404, 'no such order');

/** The HTTP interface, complete but not listening. */
export function makeApp({ orders, log, isReady }: Parts): Express {
  const app = express();
  app.disable('etag');
  app.use(helmet());

  // Before the log: probes come every few seconds and say nothing new.
  app.get('/health', (_req, res) => {
    res.json({ status: 'ok' });
  });
  app.get('/ready', (_req, res) => {
    if (isReady()) {
      res.json({ status: 'ready' });
    } else {
      problem(res, 503, 'shutting down');
    }
  });

  app.use((req, res, next) => {
    const began = process.hrtime.bigint();
    const { method, path } = req;
    res.on('finish', () => {
      const ms = Number(process.hrtime.bigint() - began) / 1e6;
      log.info({ method, path, status: res.statusCode, ms }, 'request');
    });
    next();
  });
  app.use(express.json({ limit: '64kb' }));

  app.post('/orders', (req, res) => {
    const order = orders.place(newOrder.parse(req.body));
    res.status(201).location(`/orders/${order.id}`).json(order);
  });
  app.get('/orders', (req, res) => {
    const { status } = req.query;
    res.json({ orders: orders.list(typeof status === 'string' ? status : undefined) });
  });
  app.get('/orders/:id', (req, res) => {
    const order = orders.get(req.params.id);
    return order === undefined ? noSuchOrder(res) : void res.json(order);
  });
  app.patch('/orders/:id', (req, res) => {
    const order = orders.advance(req.params.id, statusChange.parse(req.body).status);
    return order === undefined ? noSuchOrder(res) : void res.json(order);
  });
  app.delete('/orders/:id', (req, res) => {
    return orders.remove(req.params.id) ? void res.status(204).end() : noSuchOrder(res);
  });

  app.use((_req, res) => problem(res, 404, 'no such path'));

  // Express knows an error handler by its four parameters.
  const onError: ErrorRequestHandler = (error, _req, res, _next) => {
    if (error instanceof ZodError) {
      const faults = error.issues.map((issue) => ({ at: issue.path.join('.'), message: issue.message }));
      problem(res, 422, 'invalid request', faults);
    } else if (error instanceof Conflict) {
      problem(res, 409, error.message);
    } else if (error instanceof Full) {
      problem(res, 507, error.message);
    } else if (typeof error?.status === 'number' && error.status >= 400 && error.status < 500) {
      problem(res, error.status, String(error.message)); // the body parser's: too large, not JSON
    } else {
      log.error({ err: error }, 'request failed');
      problem(res, 500, 'internal error'); // the cause is in the log, not in the answer
    }
  };
  app.use(onError);
  return app;
}
