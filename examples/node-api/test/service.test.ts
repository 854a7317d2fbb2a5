import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { connect } from 'node:net';
import { once } from 'node:events';
import { pino } from 'pino';
import { makeApp } from '../src/app';
import { readConfig } from '../src/config';
import { Orders } from '../src/orders';
import { type Service, start } from '../src/service';

const quiet = pino({ level: 'silent' });
const config = (overrides: NodeJS.ProcessEnv = {}) =>
  readConfig({ HOST: '127.0.0.1', PORT: '0', DRAIN_MS: '0', MAX_ORDERS: '3', ...overrides });

const send = (method: string, body: unknown): RequestInit => ({
  method,
  headers: { 'content-type': 'application/json' },
  body: typeof body === 'string' ? body : JSON.stringify(body),
});
const book = { customer: 'Ada', lines: [{ sku: 'BOOK-1', quantity: 2, unitCents: 1_000 }] };

describe('the interface', () => {
  let service: Service;
  const call = async (path: string, init?: RequestInit) => {
    const res = await fetch(service.url + path, init);
    const body = await res.text();
    return { status: res.status, headers: res.headers, body: body === '' ? undefined : JSON.parse(body) };
  };

  beforeEach(async () => {
    service = await start(config(), quiet);
  });
  afterEach(async () => {
    await service.stop();
  });

  test('says that it lives and is ready', async () => {
    expect(await call('/health')).toMatchObject({ status: 200, body: { status: 'ok' } });
    expect(await call('/ready')).toMatchObject({ status: 200, body: { status: 'ready' } });
  });

  test('keeps an order from placing to deletion', async () => {
    const placed = await call('/orders', send('POST', book));
    expect(placed).toMatchObject({ status: 201, body: { status: 'placed', totalCents: 2_000 } });
    const path = placed.headers.get('location') ?? '';
    expect(path).toBe(`/orders/${placed.body.id}`);

    expect(await call(path)).toMatchObject({ status: 200, body: placed.body });
    expect(await call(path, send('PATCH', { status: 'paid' }))).toMatchObject({ status: 200, body: { status: 'paid' } });
    expect((await call('/orders?status=paid')).body.orders).toHaveLength(1);
    expect((await call('/orders?status=placed')).body.orders).toHaveLength(0);
    expect((await call('/orders')).body.orders).toHaveLength(1);
    expect(await call(path, { method: 'DELETE' })).toMatchObject({ status: 204, body: undefined });
    expect(await call(path)).toMatchObject({ status: 404, body: { title: 'no such order' } });
  });

  test.each([
    ['a bad order', 422, '/orders', send('POST', { customer: 'Ada', lines: [] })],
    ['no body', 422, '/orders', { method: 'POST' }],
    ['something that is not JSON', 400, '/orders', send('POST', '{"customer":')],
    ['a body that is too large', 413, '/orders', send('POST', { customer: 'x'.repeat(70_000) })],
    ['an unknown status', 422, '/orders/x', send('PATCH', { status: 'lost' })],
    ['a change of no order', 404, '/orders/x', send('PATCH', { status: 'paid' })],
    ['a deletion of no order', 404, '/orders/x', { method: 'DELETE' }],
    ['an unknown path', 404, '/nowhere', {}],
  ])('answers %s with %i and problem details', async (_name, status, path, init) => {
    const res = await call(path, init);
    expect(res).toMatchObject({ status, body: { status } });
    expect(res.headers.get('content-type')).toContain('application/problem+json');
  });

  test('refuses what cannot be granted now', async () => {
    const { body } = await call('/orders', send('POST', book));
    expect(await call(`/orders/${body.id}`, send('PATCH', { status: 'shipped' }))).toMatchObject({ status: 409 });
    await call('/orders', send('POST', book));
    await call('/orders', send('POST', book));
    expect(await call('/orders', send('POST', book))).toMatchObject({ status: 507 });
  });

  test('sends the headers that harden a browser and none that name the framework', async () => {
    const { headers } = await call('/health');
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('content-security-policy')).toContain("default-src 'self'");
    expect(headers.has('x-powered-by')).toBe(false);
  });
});

test('an internal error is logged and not told', async () => {
  const out = new PassThrough();
  const broken = new Orders(1);
  broken.list = () => {
    throw new Error('secret cause');
  };
  const app = makeApp({ orders: broken, log: pino(out), isReady: () => true });
  const server = app.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : undefined;
  const res = await fetch(`http://127.0.0.1:${port}/orders`);
  expect(res.status).toBe(500);
  expect(await res.text()).not.toContain('secret');
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
  out.end();
  const lines = (await text(out)).trim().split('\n').map((line) => JSON.parse(line));
  expect(lines).toContainEqual(expect.objectContaining({ err: expect.objectContaining({ message: 'secret cause' }) }));
  expect(lines).toContainEqual(expect.objectContaining({ msg: 'request', method: 'GET', path: '/orders', status: 500 }));
});

describe('shutting down', () => {
  test('first turns not ready while still serving, then closes the port', async () => {
    const service = await start(config({ DRAIN_MS: '300' }), quiet);
    const stopped = service.stop();
    expect(service.stop()).toBe(stopped);
    expect((await fetch(`${service.url}/ready`)).status).toBe(503);
    expect((await fetch(`${service.url}/health`)).status).toBe(200);
    expect((await fetch(`${service.url}/orders`)).status).toBe(200);
    expect(await stopped).toBe(true);
    await expect(fetch(`${service.url}/health`)).rejects.toThrow();
  });

  // A request whose body has not come yet is one in progress.
  const half = async (service: Service) => {
    const socket = connect(Number(new URL(service.url).port), '127.0.0.1');
    const body = JSON.stringify(book);
    socket.write(
      'POST /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n' +
        `content-length: ${body.length}\r\nexpect: 100-continue\r\n\r\n`,
    );
    await once(socket, 'data'); // "100 Continue": the server has begun with it
    return { socket, finish: () => socket.write(body) };
  };

  test('lets a request in progress finish', async () => {
    const service = await start(config(), quiet);
    const { socket, finish } = await half(service);
    const answer = text(socket);
    const stopped = service.stop();
    setTimeout(finish, 100);
    expect(await answer).toContain('201 Created');
    expect(await stopped).toBe(true);
  });

  test('cuts off a request that does not', async () => {
    const service = await start(config({ STOP_MS: '50' }), quiet);
    const { socket } = await half(service);
    socket.on('error', () => {});
    const closed = once(socket, 'close');
    expect(await service.stop()).toBe(false);
    await closed;
  });
});
