<?php
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

namespace App\MessageHandler;

use App\Message\OrderShipped;
use App\PushIt;
use Symfony\Component\Messenger\Attribute\AsMessageHandler;

#[AsMessageHandler]
final class TellShipped
{
    public function __construct(private PushIt $push)
    {
    }

    public function __invoke(OrderShipped $event): void
    {
        $this->push->publish("orders/$event->order", ['status' => 'shipped'], "order-$event->order-shipped");
    }
}
