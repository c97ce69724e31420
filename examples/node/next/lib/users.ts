// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { createHmac, timingSafeEqual } from "node:crypto";

// Your application has users and orders of its own.
const passwords = new Map([["ann", "wonderland"], ["bob", "builder"]]);
const owners = new Map([["1", "ann"], ["2", "bob"]]);

const sign = (text: string) => createHmac("sha256", `${process.env.PUBLISHER_SECRET} for cookies`).update(text).digest("hex");

const same = (one: string, other: string) => timingSafeEqual(Buffer.from(sign(one)), Buffer.from(sign(other)));

/** The user who is logged in. With Auth.js, this is `(await auth())?.user?.id`. */
export async function userOf(request: Request): Promise<string | undefined> {
  const [, user, signature] = /(?:^|; )user=(\w+)\.(\w+)/.exec(request.headers.get("Cookie") ?? "") ?? [];
  return user && signature && same(signature, sign(user)) ? user : undefined;
}

/** The cookie of a user who knows the password. */
export function logIn(user: string, password: string): string | undefined {
  const right = passwords.get(user);
  return right !== undefined && same(password, right) ? `user=${user}.${sign(user)}; Path=/; HttpOnly; SameSite=Lax` : undefined;
}

export async function mayView(user: string | undefined, order: string | undefined): Promise<boolean> {
  return user !== undefined && order !== undefined && owners.get(order) === user;
}
