// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { publish } from "@/lib/pushit";
import { mayView, userOf } from "@/lib/users";

export async function POST(request: Request, { params }: { params: Promise<{ order: string }> }): Promise<Response> {
  const { order } = await params;
  if (!(await mayView(await userOf(request), order))) return new Response(null, { status: 403 });
  // The uuid says what happened, so that it is published once, however often this runs.
  await publish(`orders/${order}`, { status: "shipped" }, `order-${order}-shipped`);
  return new Response(null, { status: 204 });
}
