<?php
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

namespace App\Message;

final class OrderShipped
{
    public function __construct(public readonly int $order)
    {
    }
}
