<?php
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

use App\Models\Order;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Route;

// Who is this? pushit asks when a page connects, with the cookies of the page.
Route::get('/pushit/session', function (Request $request) {
    $user = $request->user() ?? abort(401);
    return response()->noContent()->header('Remote-User', (string) $user->id);
});

// May this user subscribe? pushit asks for each subscription.
Route::get('/pushit/channel', function (Request $request) {
    $user = $request->user() ?? abort(401);
    $found = preg_match('~^orders/(\d+)$~D', (string) $request->query('channel'), $parts);
    $order = $found ? Order::find($parts[1]) : null;
    abort_unless($order !== null && $user->can('view', $order), 403);
    return response()->noContent();
});
