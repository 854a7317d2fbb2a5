import { Conflict, Full, newOrder, Orders } from '../src/orders';

const request = { customer: 'Ada', lines: [{ sku: 'BOOK-1', quantity: 3, unitCents: 1_250 }] };

test('an order is totalled in cents and dated by the clock it was given', () => {
  const orders = new Orders(10, () => new Date('2026-01-02T03:04:05Z'));
  const order = orders.place({ ...request, lines: [...request.lines, { sku: 'PEN', quantity: 1, unitCents: 99 }] });
  expect(order).toMatchObject({ status: 'placed', totalCents: 3_849, placedAt: '2026-01-02T03:04:05.000Z' });
  expect(orders.get(order.id)).toEqual(order);
});

test('an order moves only along its path', () => {
  const orders = new Orders(10);
  const { id } = orders.place(request);
  expect(() => orders.advance(id, 'shipped')).toThrow(Conflict);
  expect(orders.advance(id, 'paid')?.status).toBe('paid');
  expect(orders.advance(id, 'shipped')?.status).toBe('shipped');
  expect(() => orders.advance(id, 'cancelled')).toThrow('an order that is shipped cannot become cancelled');
  expect(orders.advance('nobody', 'paid')).toBeUndefined();
});

test('a full store refuses and takes orders again after a deletion', () => {
  const orders = new Orders(1);
  const { id } = orders.place(request);
  expect(() => orders.place(request)).toThrow(Full);
  expect(orders.remove(id)).toBe(true);
  expect(orders.remove(id)).toBe(false);
  expect(orders.place(request).status).toBe('placed');
});

test('a list can be narrowed by status', () => {
  const orders = new Orders(10);
  const first = orders.place(request);
  orders.place(request);
  orders.advance(first.id, 'paid');
  expect(orders.list()).toHaveLength(2);
  expect(orders.list('paid').map((order) => order.id)).toEqual([first.id]);
  expect(orders.list('lost')).toEqual([]);
});

test.each([
  ['no lines', { customer: 'Ada', lines: [] }],
  ['no customer', { customer: '  ', lines: request.lines }],
  ['half an item', { customer: 'Ada', lines: [{ sku: 'PEN', quantity: 0.5, unitCents: 1 }] }],
  ['a bad article number', { customer: 'Ada', lines: [{ sku: '../etc', quantity: 1, unitCents: 1 }] }],
  ['an unknown key', { ...request, admin: true }],
])('refuses %s', (_name, body) => {
  expect(newOrder.safeParse(body).success).toBe(false);
});
