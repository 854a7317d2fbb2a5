import { randomUUID } from 'node:crypto';
import { z } from 'zod';

/** What a client may send to place an order. Unknown keys are refused. */
export const newOrder = z
  .object({
    customer: z.string().trim().min(1).max(100),
    lines: z
      .array(
        z
          .object({
            sku: z.string().regex(/^[A-Z0-9][A-Z0-9-]{1,31}$/, 'want 2 to 32 of A-Z, 0-9 and -'),
            quantity: z.number().int().min(1).max(1_000),
            unitCents: z.number().int().min(0).max(100_000_000),
          })
          .strict(),
      )
      .min(1)
      .max(100),
  })
  .strict();

/** What a client may send to move an order along. */
export const statusChange = z.object({ status: z.enum(['paid', 'shipped', 'cancelled']) }).strict();

export type NewOrder = z.infer<typeof newOrder>;
export type Status = 'placed' | z.infer<typeof statusChange>['status'];

export interface Order extends NewOrder {
  id: string;
  status: Status;
  /** Sum of all lines, in cents, so that no fraction is ever rounded. */
  totalCents: number;
  placedAt: string;
}

const next: Record<Status, readonly Status[]> = {
  placed: ['paid', 'cancelled'],
  paid: ['shipped', 'cancelled'],
  shipped: [],
  cancelled: [],
};

/** A request that is well formed but cannot be granted now. */
export class Conflict extends Error {}

/** The store has no room for another order. */
export class Full extends Error {}

/** Orders in memory, at most `limit` of them. */
export class Orders {
  readonly #orders = new Map<string, Order>();

  constructor(
    private readonly limit: number,
    private readonly now: () => Date = () => new Date(),
  ) {}

  place(request: NewOrder): Order {
    if (this.#orders.size >= this.limit) {
      throw new Full(`the store holds its ${this.limit} orders; delete some first`);
    }
    const order: Order = {
      id: randomUUID(),
      status: 'placed',
      ...request,
      totalCents: request.lines.reduce((sum, line) => sum + line.quantity * line.unitCents, 0),
      placedAt: this.now().toISOString(),
    };
    this.#orders.set(order.id, order);
    return order;
  }

  get(id: string): Order | undefined {
    return this.#orders.get(id);
  }

  /** All orders, oldest first; only those of one status when it is given. */
  list(status?: string): Order[] {
    const all = [...this.#orders.values()];
    return status === undefined ? all : all.filter((order) => order.status === status);
  }

  /** Moves an order along; undefined when there is none, Conflict when it may not go there. */
  advance(id: string, status: Status): Order | undefined {
    const order = this.#orders.get(id);
    if (order === undefined) {
      return undefined;
    }
    if (!next[order.status].includes(status)) {
      throw new Conflict(`an order that is ${order.status} cannot become ${status}`);
    }
    const changed = { ...order, status };
    this.#orders.set(id, changed);
    return changed;
  }

  remove(id: string): boolean {
    return this.#orders.delete(id);
  }
}
