// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { logIn } from "@/lib/users";

export async function POST(request: Request): Promise<Response> {
  const form = await request.formData();
  const cookie = logIn(String(form.get("user")), String(form.get("password")));
  return cookie ? new Response(null, { status: 204, headers: { "Set-Cookie": cookie } }) : new Response(null, { status: 403 });
}
