-- Pending requests: whether they were seen, putting them into queues, taking them out.

-- Fingerprints lie in many small hashes, which Redis packs tightly. Generation g has 16^(g+1) hashes; the next
-- generation begins when these have 64 fields on average. So few fingerprints need few hashes, and none ever moves.
local function is_seen(fingerprint)
    local a, b, c = string.byte(fingerprint, 1, 3)
    local number = (a or 0) * 65536 + (b or 0) * 256 + (c or 0)
    for g = 0, generation - 1 do
        if call('HEXISTS', prefix .. 'seen:' .. g .. ':' .. math.floor(number / 2 ^ (20 - 4 * g)), fingerprint) == 1 then
            return true
        end
    end
    local bucket = prefix .. 'seen:' .. generation .. ':' .. math.floor(number / 2 ^ (20 - 4 * generation))
    if call('HSETNX', bucket, fingerprint, '') == 0 then
        return true
    end
    seen = seen + 1
    if seen >= 64 * 16 ^ (generation + 1) and generation < 5 then
        generation = generation + 1
    end
    return false
end

local function put(element, again)
    local priority, start, slot = string.match(element, '^(%-?%d+)(s?)[/%d]* ([^\n]*)\n')
    local member = priority .. start
    local push = (again and from_front[start]) and 'LPUSH' or 'RPUSH'
    if call(push, prefix .. 'queue:' .. member .. ':' .. slot, element) == 1 then
        call('ZADD', prefix .. 'priorities:' .. slot, (start == 's' and 0.5 or 0) - priority, member)
        if not call('ZSCORE', ring, slot) then
            turn = turn + 1
            call('ZADD', ring, turn, slot)
        end
    end
end

local leased, leased_bytes, is_full = {}, 0, false

-- Whether one more request is too much for this reply. The first one never is.
local function is_too_much(element)
    is_full = is_full or (#leased > 0 and leased_bytes + #element > most_bytes)
    return is_full
end

-- Return the lease's id; nil if the page was finished while it waited.
local function lease(element)
    local id = string.match(element, '^%-?%d+s?/(%d+)/')
    if id then
        local holder = call('HGET', late, id)
        if holder == 'finished' then
            call('HDEL', late, id)
            return nil
        end
        call('HSET', late, id, worker)
    else
        ids = ids + 1
        id = ids
    end
    call('HSET', mine, id, element)
    leased[#leased + 1] = id
    leased[#leased + 1] = element
    leased_bytes = leased_bytes + #element
    is_full = is_full or leased_bytes >= most_bytes
    return id
end

-- Lease up to count requests of a download slot, best priority first.
local function take(slot, count)
    local priorities = prefix .. 'priorities:' .. slot
    while count > 0 and not is_full do
        local member = call('ZRANGE', priorities, 0, 0)[1]
        if not member then
            break
        end
        local queue = prefix .. 'queue:' .. member .. ':' .. slot
        local front, part = from_front[string.match(member, 's?$')], math.min(count, 16)
        local elements = front and call('LRANGE', queue, 0, part - 1) or call('LRANGE', queue, -part, -1)
        local taken = 0
        while taken < #elements do
            local element = elements[front and taken + 1 or #elements - taken]
            if is_too_much(element) then
                break
            end
            lease(element)
            taken = taken + 1
        end
        if taken > 0 and front then
            call('LTRIM', queue, taken, -1)
        elseif taken > 0 then
            call('LTRIM', queue, 0, -taken - 1)
        end
        count = count - taken
        pending = pending - taken
        if call('EXISTS', queue) == 0 then
            call('ZREM', priorities, member)
        end
    end
    if call('EXISTS', priorities) == 1 then
        turn = turn + 1
        call('ZADD', ring, turn, slot)
    else
        call('ZREM', ring, slot)
    end
end
