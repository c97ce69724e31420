<?php
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

namespace App\Jobs;

use App\PushIt;
use Illuminate\Bus\Queueable;
use Illuminate\Contracts\Queue\ShouldQueue;
use Illuminate\Foundation\Bus\Dispatchable;

class TellShipped implements ShouldQueue
{
    use Dispatchable, Queueable;

    public int $tries = 4;
    public array $backoff = [2, 5, 15]; // seconds: all tries within two minutes

    public function __construct(public int $order)
    {
    }

    public function handle(PushIt $push): void
    {
        $push->publish("orders/$this->order", ['status' => 'shipped'], "order-$this->order-shipped");
    }
}
