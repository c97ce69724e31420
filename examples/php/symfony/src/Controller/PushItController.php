<?php
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

namespace App\Controller;

use App\Repository\OrderRepository;
use Symfony\Bundle\FrameworkBundle\Controller\AbstractController;
use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpFoundation\Response;
use Symfony\Component\Routing\Attribute\Route;

class PushItController extends AbstractController
{
    /** Who is this? pushit asks when a page connects, with the cookies of the page. */
    #[Route('/pushit/session', methods: ['GET'])]
    public function session(): Response
    {
        $user = $this->getUser();
        return $user ? new Response(status: 204, headers: ['Remote-User' => $user->getUserIdentifier()]) : new Response(status: 401);
    }

    /** May this user subscribe? pushit asks for each subscription. */
    #[Route('/pushit/channel', methods: ['GET'])]
    public function channel(Request $request, OrderRepository $orders): Response
    {
        $found = preg_match('~^orders/(\d+)$~D', (string) $request->query->get('channel'), $parts);
        $order = $found ? $orders->find($parts[1]) : null;
        return new Response(status: $order && $this->isGranted('view', $order) ? 204 : 403);
    }
}
