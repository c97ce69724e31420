// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { userOf } from "@/lib/users";

/** Who is this? pushit asks when a page connects, with the cookies of the page. */
export async function GET(request: Request): Promise<Response> {
  const user = await userOf(request);
  return user === undefined ? new Response(null, { status: 401 }) : new Response(null, { status: 204, headers: { "Remote-User": user } });
}
