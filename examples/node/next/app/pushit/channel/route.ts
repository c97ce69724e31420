// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { mayView, userOf } from "@/lib/users";

/** May this user subscribe? pushit asks for each subscription. */
export async function GET(request: Request): Promise<Response> {
  const channel = new URL(request.url).searchParams.get("channel") ?? "";
  const [, order] = /^orders\/(\d+)$/.exec(channel) ?? [];
  return new Response(null, { status: (await mayView(await userOf(request), order)) ? 204 : 403 });
}
